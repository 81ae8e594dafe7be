r"""Stage 5: all tasks, 480p and 720p, 93 frames, behind stage 4.

    python -m lcv_jax.data.cache --source CLIPS --checkpoint meituan-longcat/LongCat-Video --size 720p \
        --out data/videos-720p
    python train.py configs/stage5.py --out runs/stage5

Hardware: 64 devices of 80 GB (60.9 GB each, docs/scaling.md). Time: a batch has the tokens of 32 videos of 720p, 48 s
at 35 % of an H100's peak: 29 days; on more devices with a larger data axis in proportion. Expected: the published
base model's quality. Never run by us; rate and iterations are the report's.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import ALL_TASKS, TOKENS_720P, published


def config() -> TrainConfig:
    return published(
        paths={"data/images-480p": 1.0, "data/videos-480p": 1.5, "data/videos-720p": 1.5},
        tokens=32 * TOKENS_720P,
        multiple=32,
        rate=2e-5,
        steps=53_000,
        init="runs/stage4/checkpoints/36000",
        tasks=ALL_TASKS,
        mesh="data=2,fsdp=16,context=2",
    )
