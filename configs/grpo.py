r"""Reinforcement learning of the published model (report section 5): GRPO with four rewards, 480p and 720p x 93.

    python -m lcv_jax.rewards serve ...                                 on machines of their own: docs/rewards.md
    python train.py configs/grpo.py --out runs/grpo --prompts.source PROMPTS.txt \
        --rewards.0.url http://HOST:8700 --rewards.1.url http://HOST:8700 \
        --rewards.2.url http://HOST:8701 --rewards.3.url http://HOST:8701
    python -m lcv_jax.checkpoint export runs/grpo/checkpoints/500 grpo.safetensors
    python sample.py t2v --checkpoint meituan-longcat/LongCat-Video --lora grpo.safetensors --prompt "..." --out a.mp4

The report's: 16 steps with shift 12 and CFG 4, 64 prompts of 4 videos an iteration, a critical step among the first 6,
beta 3e-4, a LoRA of rank 128 and alpha 64, rate 1e-4, 500 iterations, weights of 1. Prompts are not published; warm-up,
weight decay and Adam's moments are ours. Gradients of policies are small, hence the epsilon: at 720p the mean over a
video's numbers of what a step's noise tells is 1e-4 of one number's, which Adam's usual 1e-8 would hold back.

Hardware: 64 devices, on each of which one video at a time is made and learned from; with fewer, a smaller mesh and
more of --rollout.parts and --accumulate. HPSv3's server sees 256 videos of 93 pictures twice in an iteration; what it
cannot answer within 600 s is left out, so give it several GPUs. Time: not measured. Expected: rising rewards. Never run
by us.
"""

from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.rewards.protocol import RewardSettings
from lcv_jax.train.grpo_config import GRPOConfig, PromptConfig, RolloutConfig, ShownConfig
from lcv_jax.train.optimizer import AdamW

REWARDS = ("hpsv3-general", "hpsv3-percentile", "videoalign-motion", "videoalign-text")


def config() -> GRPOConfig:
    return GRPOConfig(
        model=DiTConfig(),
        init="meituan-longcat/LongCat-Video",
        checkpoint="meituan-longcat/LongCat-Video",
        prompts=PromptConfig("prompts.txt"),
        rewards=tuple(RewardSettings(name, url="http://localhost:8700", timeout_s=600.0, batch=4) for name in REWARDS),
        rollout=RolloutConfig(sizes=((480, 832), (704, 1280)), parts=4),
        accumulate=4,
        optimizer=AdamW(rate=1e-4, warmup=10, weight_decay=0, epsilon=1e-12),
        steps=500,
        save_every=10,
        log_every=1,
        mesh="fsdp=64",
        samples=ShownConfig(every=10, count=8),
    )
