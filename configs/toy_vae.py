r"""The toy world's autoencoder, behind its pictures: windows of clips, and pictures still.

    python train.py configs/toy_vae.py --out outputs/toy/run-vae
    python -m lcv_jax.checkpoint export outputs/toy/run-vae/checkpoints/8000 outputs/toy/base/vae

Hardware: any. Time: 0.3 s a step on two cores: forty minutes. Expected: PSNR above 30 dB on held-out clips
(python -m lcv_jax.eval). Not run yet.
"""

from lcv_jax.data.clip_batches import ClipSet
from lcv_jax.train.config import VAETrainConfig
from lcv_jax.train.recipes import toy_vae


def config() -> VAETrainConfig:
    return toy_vae(
        (
            ClipSet("toy:1000000", "64x64x1", batch=8, weight=1),
            ClipSet("toy:1000000", "64x64x9", window=(32, 32), batch=4, weight=3),
        ),
        steps=8_000,
        cooldown=(5_000, 8_000),
        init="outputs/toy/run-vae-images/checkpoints/1500",
    )
