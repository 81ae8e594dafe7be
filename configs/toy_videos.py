r"""The toy world, stage 2: text to image and text to video, 64 x 64, 13 frames, behind stage 1.

    python -m lcv_jax.data.cache --source toy:20000 --forms 64x64x13 --checkpoint outputs/toy/base \
        --out outputs/toy/videos --max-text-tokens 128 --batch 16 --shard-records 1024
    python train.py configs/toy_videos.py --out outputs/toy/run-videos

Hardware: any. Time: 64 clips of 64 tokens (or 256 pictures) a step; under an hour on a GPU, half a day on two cores.
Expected: colour, shape and motion right on most clips (python -m lcv_jax.eval). Not run yet.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import toy


def config() -> TrainConfig:
    return toy(
        paths={"outputs/toy/images": 1.0, "outputs/toy/videos": 3.0},
        tokens=64 * 64,
        rate=5e-4,
        steps=12_000,
        init="outputs/toy/run-images/checkpoints/6000",
    )
