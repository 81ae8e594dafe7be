r"""Distillation of guidance (report section 5): a LoRA learns in one pass what guidance makes of two, 480p and 720p.

    python -m lcv_jax.data.cache --source CLIPS --checkpoint meituan-longcat/LongCat-Video --size 720p \
        --out data/videos-720p
    python train.py configs/cfg_distill.py --out runs/cfg_distill

The data are stage 5's; the cache holds the negative prompt that the teacher is guided with, scale 4. Behind it comes
configs/consistency.py. Hardware: 64 devices of 80 GB. Time: not measured; a step asks the model three times, and goes
back once: 5/3 of a step of stage 5 at most. Expected: as guided, at half the passes. Never run by us; rate and
iterations, rank and alpha are the report's.
"""

from lcv_jax.objectives.cfg_distill import CFGDistillation
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import distilled


def config() -> TrainConfig:
    return distilled(CFGDistillation(), steps=2_000, ema_decay=0.99)
