r"""The toy world's autoencoder, behind its pictures: windows of clips, and pictures still.

    python train.py configs/toy_vae.py --out outputs/toy/run-vae

Hardware: any. Time: 0.46 s a step on two cores, as two devices: half an hour. Expected: a PSNR of 29.5 dB in the
metrics, measured when the default checkpoint was trained; toy_vae_fine goes on.
"""

from lcv_jax.train.config import VAETrainConfig
from lcv_jax.train.recipes import TOY_VAE_CLIPS, toy_vae


def config() -> VAETrainConfig:
    return toy_vae(
        TOY_VAE_CLIPS,
        steps=3_500,
        cooldown=(2_000, 3_500),
        init="outputs/toy/run-vae-images/checkpoints/1500",
    )
