r"""Stage 2: text to image and text to video, 256p, 93 frames, behind stage 1.

    python -m lcv_jax.data.cache --source CLIPS --checkpoint meituan-longcat/LongCat-Video --size 256p \
        --out data/videos-256p
    python train.py configs/stage2.py --out runs/stage2

Hardware: 64 devices of 80 GB. Time: 12,288 tokens a device and step, 4.1 s at 35 % of an H100's peak: 6.6 days.
Expected: no published figure. Never run by us; rate and iterations are the report's, the batch of 128 videos (or
3,072 images) and the quarter of images are ours.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import TOKENS_256P, published


def config() -> TrainConfig:
    return published(
        paths={"data/images-256p": 1.0, "data/videos-256p": 3.0},
        tokens=128 * TOKENS_256P,
        rate=1e-4,
        steps=140_000,
        init="runs/stage1/checkpoints/285000",
    )
