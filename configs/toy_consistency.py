r"""Consistency distillation in the toy world: 16 steps for 50, behind the distillation of guidance.

    python train.py configs/toy_consistency.py --out outputs/toy/run-consistency
    python -m lcv_jax.checkpoint export outputs/toy/run-consistency/checkpoints/400 \
        outputs/toy/checkpoint/lora/cfg_step_lora.safetensors
    python -m lcv_jax.eval --checkpoint outputs/toy/checkpoint --toy 200 --tasks t2v i2v vc --max-text-tokens 48 \
        --distilled --out toy-distilled.json
    python -m benchmarks.distilled --checkpoint outputs/toy/checkpoint

Hardware: any. Time: not measured. Expected: within 2 points of 50 guided steps. Not run yet.
"""

from lcv_jax.objectives.consistency import Consistency
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import toy_distilled


def config() -> TrainConfig:
    return toy_distilled(
        Consistency(shift=3.0),
        rate=5e-4,
        steps=400,
        cooldown=(200, 400),
        ema_decay=0.95,
        init_lora="outputs/toy/run-cfg/checkpoints/400",
    )
