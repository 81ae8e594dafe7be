r"""GRPO in the toy world: 16 prompts of 4 videos an iteration, 64 x 64, 13 frames, three rewards of the judge.

    python train.py configs/toy_grpo.py --out outputs/toy/run-grpo
    python -m lcv_jax.checkpoint export outputs/toy/run-grpo/checkpoints/100 outputs/toy/grpo.safetensors
    python -m lcv_jax.eval --toy 200 --tasks t2v --loras outputs/toy/grpo.safetensors --out grpo.json

It trains the model that comes with the package. Captions are 2,000 of the training split, in English and Chinese by
turns; what is measured is of the other split. One reward alone, and the report's method without its parts, are options:

    --rewards.0.weight 0 --rewards.1.weight 0      text alignment alone
    --objective.weighting none                     gradients as the schedule makes them
    --objective.scale own                          each group divided by its own standard deviation
    --objective.exploration.stochastic all         noise in all of the first steps
    --seed 1                                       another run

Hardware: any. Time: not measured. Expected: rising rewards of text and motion. Not run yet.
"""

from lcv_jax.checkpoint.default import default_checkpoint
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.models.remat import Remat
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.rewards.protocol import RewardSettings
from lcv_jax.sample.rollout import Exploration
from lcv_jax.train.grpo_config import GRPOConfig, PromptConfig, RolloutConfig, ShownConfig
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.recipes import TOY_MODEL


def config() -> GRPOConfig:
    checkpoint = str(default_checkpoint())
    return GRPOConfig(
        model=TOY_MODEL,
        init=checkpoint,
        checkpoint=checkpoint,
        prompts=PromptConfig("toy:2000", tokens=48, negative=""),
        rewards=tuple(RewardSettings(name) for name in ("toy-visual", "toy-motion", "toy-text")),
        rollout=RolloutConfig(sizes=((64, 64),), frames=13, steps=8, prompts=16),
        objective=GRPO(Exploration(steps=3)),
        lora=LoRAConfig(rank=16, alpha=8.0),
        optimizer=AdamW(rate=3e-4, warmup=0, weight_decay=0, epsilon=1e-12),
        steps=100,
        save_every=50,
        log_every=1,
        remat=Remat.NONE,
        samples=ShownConfig(every=50, count=8),
    )
