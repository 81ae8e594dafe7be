r"""The toy world, stage 3: all tasks, 64 x 64, 13 frames, behind stage 2.

    python train.py configs/toy_tasks.py --out outputs/toy/run-tasks
    python -m lcv_jax.checkpoint export outputs/toy/run-tasks/checkpoints/6000 outputs/toy/checkpoint
    python -m lcv_jax.eval --checkpoint outputs/toy/checkpoint --toy 200 --tasks t2v i2v vc --max-text-tokens 48 \
        --out toy.json

Continuations are given 2 latent frames, 5 frames of 13. Hardware: any. Time: 0.9 s a step on two cores: an hour and a
half. Expected: better than the default checkpoint's figures in docs/toy_world.md, which are of a shorter training.
Not run yet with these numbers.
"""

from lcv_jax.data.batching import Tasks
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import toy


def config() -> TrainConfig:
    return toy(
        paths={"outputs/toy/images": 1.0, "outputs/toy/videos": 9.0},
        tokens=40 * 64,
        rate=1e-3,
        steps=6_000,
        cooldown=(0, 6_000),
        init="outputs/toy/run-videos/checkpoints/1500",
        tasks=Tasks(t2v=2, i2v=1, vc=1, vc_latents=(2,)),
    )
