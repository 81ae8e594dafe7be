r"""Stage 4: all tasks, 480p, 93 frames, behind stage 3.

    python -m lcv_jax.data.cache --source CLIPS --checkpoint meituan-longcat/LongCat-Video --size 480p \
        --out data/videos-480p
    python -m lcv_jax.data.cache --source IMAGES --checkpoint meituan-longcat/LongCat-Video --size 480p \
        --out data/images-480p
    python train.py configs/stage4.py --out runs/stage4

Hardware: 64 devices of 80 GB (45.5 GB each, docs/scaling.md). Time: one video a device and step, 24 s at 35 % of an
H100's peak: 10 days. Expected: the published model's quality at 480p. Never run by us; rate and iterations are the
report's.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import ALL_TASKS, TOKENS_480P, published


def config() -> TrainConfig:
    return published(
        paths={"data/images-480p": 1.0, "data/videos-480p": 3.0},
        tokens=64 * TOKENS_480P,
        rate=5e-5,
        steps=36_000,
        init="runs/stage3/checkpoints/164000",
        tasks=ALL_TASKS,
    )
