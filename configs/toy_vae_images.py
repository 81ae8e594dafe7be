r"""The toy world's autoencoder, of the published class, first on pictures, which cost a tenth of clips.

    python train.py configs/toy_vae_images.py --out outputs/toy/run-vae-images

Hardware: any. Time: 8 pictures a step, 0.15 to 0.3 s on two cores: four to eight minutes. Expected: a PSNR of 32.5 dB
in the metrics, measured when the default checkpoint was trained.
"""

from lcv_jax.data.clip_batches import ClipSet
from lcv_jax.train.config import VAETrainConfig
from lcv_jax.train.recipes import toy_vae


def config() -> VAETrainConfig:
    return toy_vae((ClipSet("toy:1000000", "64x64x1", batch=8),), steps=1_500, cooldown=None, init=None)
