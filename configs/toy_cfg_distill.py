r"""Distillation of guidance in the toy world: 64 x 64, 13 frames, all tasks.

    python train.py configs/toy_cfg_distill.py --out outputs/toy/run-cfg

On the data of the model's last stage, whose empty prompt is the negative one. Behind it comes
configs/toy_consistency.py. Hardware: any. Time: not measured. Expected: 50 steps without guidance are as good as with
it, but for a few points. Not run yet.
"""

from lcv_jax.objectives.cfg_distill import CFGDistillation
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import toy_distilled


def config() -> TrainConfig:
    objective = CFGDistillation(negative_prompt="", shift=3.0)
    return toy_distilled(objective, rate=1e-3, steps=400, cooldown=(200, 400), ema_decay=0.99)
