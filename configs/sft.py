r"""Supervised fine-tuning: all tasks on chosen pictures and clips, 480p and 720p, 93 frames, behind stage 5.

    python -m lcv_jax.data.cache --source CHOSEN --checkpoint meituan-longcat/LongCat-Video --size 480p \
        --out data/chosen-480p
    python -m lcv_jax.data.cache --source CHOSEN --checkpoint meituan-longcat/LongCat-Video --size 720p \
        --out data/chosen-720p
    python train.py configs/sft.py --out runs/sft

The report weights samples inversely to the density of their captions' embeddings: selections chosen-480p and
chosen-720p of configs/curation.py are such, and pack prints their --data.paths and --data.weights.
Hardware: 64 devices of 80 GB. Time: 48 s a step at 35 % of an H100's peak: 4 days. Expected: the published model.
Never run by us; rate and iterations are the report's.
"""

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import ALL_TASKS, TOKENS_720P, published


def config() -> TrainConfig:
    return published(
        paths={"data/chosen-images-480p": 1.0, "data/chosen-480p": 1.5, "data/chosen-720p": 1.5},
        tokens=32 * TOKENS_720P,
        multiple=32,
        rate=1e-5,
        steps=7_500,
        init="runs/stage5/checkpoints/53000",
        tasks=ALL_TASKS,
        mesh="data=2,fsdp=16,context=2",
    )
