"""Stage 3: text to image, and text, image and video to video, 256p, 93 frames, behind stage 2.

    python train.py configs/stage3.py --out runs/stage3

Hardware: 64 devices of 80 GB. Time: 4.1 s a step at 35 % of an H100's peak: 7.8 days. Expected: no published figure.
Never run by us; rate and iterations are the report's. The shares of the tasks and the noise on condition frames are
ours (lcv_jax/train/recipes.py).
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import ALL_TASKS, TOKENS_256P, published


def config() -> TrainConfig:
    return published(
        paths={"data/images-256p": 1.0, "data/videos-256p": 3.0},
        tokens=128 * TOKENS_256P,
        rate=5e-5,
        steps=164_000,
        init="runs/stage2/checkpoints/140000",
        tasks=ALL_TASKS,
    )
