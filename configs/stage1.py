r"""Stage 1: text to image at 256p, from untrained weights.

    python -m lcv_jax.data.cache --source IMAGES --checkpoint meituan-longcat/LongCat-Video --size 256p \
        --out data/images-256p
    python train.py configs/stage1.py --out runs/stage1

Hardware: 64 devices of 80 GB. Time: 8,192 tokens a device and step, 2.3 s at 35 % of an H100's peak: 7.6 days.
Expected: the report gives no figure for this stage. Never run by us; rate and iterations are the report's, the batch
of 2,048 images is ours.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import published


def config() -> TrainConfig:
    return published(paths={"data/images-256p": 1.0}, tokens=2048 * 256, rate=1e-4, steps=285_000, init=None)
