r"""The toy world's autoencoder, behind its pictures: windows of clips, and pictures still.

Some clips are long: an autoencoder that has seen 9 frames only takes their end for the end of all videos.

    python train.py configs/toy_vae.py --out outputs/toy/run-vae

Hardware: any. Time: 0.46 s a step on two cores, as two devices: half an hour. Expected: a PSNR of 29.5 dB in the
metrics, measured when the default checkpoint was trained; toy_vae_fine goes on.
"""

from lcv_jax.data.clip_batches import ClipSet
from lcv_jax.train.config import VAETrainConfig
from lcv_jax.train.recipes import toy_vae


def config() -> VAETrainConfig:
    return toy_vae(
        (
            ClipSet("toy:1000000", "64x64x1", batch=8, weight=1),
            ClipSet("toy:1000000", "64x64x13", window=(32, 32), batch=4, weight=3),
            ClipSet("toy:1000000", "64x64x29", window=(32, 32), batch=2, weight=1),
        ),
        steps=3_500,
        cooldown=(2_000, 3_500),
        init="outputs/toy/run-vae-images/checkpoints/1500",
    )
