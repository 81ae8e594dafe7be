r"""The toy world's autoencoder, longer: shapes that turn fast need it.

    python train.py configs/toy_vae_fine.py --out outputs/toy/run-vae-fine
    python -m lcv_jax.checkpoint export outputs/toy/run-vae-fine/checkpoints/5000 outputs/toy/base/vae

Hardware: any. Time: 0.45 s a step on two cores, as two devices: forty minutes. Expected: the figures of
docs/toy_world.md, measured on its result.
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
        steps=5_000,
        cooldown=(1_000, 5_000),
        init="outputs/toy/run-vae/checkpoints/3500",
    )
