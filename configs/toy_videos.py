r"""The toy world, stage 2: text to image and text to video, 64 x 64, 13 frames, behind stage 1.

    python -m lcv_jax.data.cache --source toy:16000 --forms 64x64x13 --objects 1 1 2 3 --checkpoint outputs/toy/base \
        --out outputs/toy/videos --max-text-tokens 48 --batch 16 --shard-records 1000
    python train.py configs/toy_videos.py --out outputs/toy/run-videos

Hardware: any. Time: 40 clips of 64 tokens (or 160 pictures) a step, 0.8 s on two cores: twenty minutes. Expected: clips
that move as the pictures of stage 1 look. Not run yet with these numbers.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import toy


def config() -> TrainConfig:
    return toy(
        paths={"outputs/toy/images": 1.0, "outputs/toy/videos": 4.0},
        tokens=40 * 64,
        rate=1e-3,
        steps=1_500,
        init="outputs/toy/run-images-fine/checkpoints/7000",
    )
