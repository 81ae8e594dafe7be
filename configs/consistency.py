r"""Consistency distillation (report section 5): 16 steps for 50, behind the distillation of guidance, 480p and 720p.

    python train.py configs/consistency.py --out runs/consistency
    python -m lcv_jax.checkpoint export runs/consistency/checkpoints/3000 CHECKPOINT/lora/cfg_step_lora.safetensors
    python sample.py t2v --checkpoint CHECKPOINT --distilled --prompt "..." --out a.mp4

The data are those of configs/cfg_distill.py, and its LoRA is both the teacher's, frozen, and what the student begins
with. Hardware: 64 devices of 80 GB. Time: not measured; a step asks the model three times, and goes back once: 5/3 of a
step of stage 5 at most. Expected: 16 steps that are worth 50. Never run by us; rate and iterations, rank and alpha are
the report's; as many phases as steps are sampled, and the running mean, are ours.
"""

from lcv_jax.objectives.consistency import Consistency
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import distilled


def config() -> TrainConfig:
    return distilled(Consistency(), steps=3_000, ema_decay=0.95, init_lora="runs/cfg_distill/checkpoints/2000")
