"""AdamW as the report trains: a constant rate for each stage, here after a warm-up, with clipped gradients."""

import dataclasses
from typing import Any

import jax
import optax

from lcv_jax.errors import InputError

DECAYED = ("kernel", "down", "up")
"""Last names of the leaves that decay: the matrices of products, of layers and of their LoRAs."""
NOT_DECAYED_WITHIN = ("x_embedder", "t_embedder", "y_embedder", "embedding")
"""Modules none of whose leaves decay."""


@dataclasses.dataclass(frozen=True)
class AdamW:
    """rate: reached after `warmup` steps, then constant. clip: largest global norm of a gradient. weight_decay: times
    the rate, per step, of the leaves that `decayed` tells. The report gives the rates; the others are ours."""

    rate: float
    warmup: int = 1000
    clip: float = 1.0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self):
        for name in ("rate", "clip", "epsilon"):
            if not getattr(self, name) > 0:
                raise InputError(f"optimizer, {name}={getattr(self, name)!r}: expected a number above 0")
        for name in ("warmup", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise InputError(f"optimizer, {name}={getattr(self, name)!r}: expected a number of at least 0")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"optimizer, {name}={getattr(self, name)!r}: expected a number from 0 to below 1")

    def schedule(self, step: jax.Array) -> jax.Array:
        """The rate of step 0, 1, ...: the first step of a warm-up of n already moves, by rate / n."""
        if not self.warmup:
            return jax.numpy.float32(self.rate)
        return self.rate * jax.numpy.minimum(1.0, (step + 1) / self.warmup)

    def make(self) -> optax.GradientTransformation:
        """The optimizer of a tree of float32 parameters."""
        adamw = optax.adamw(self.schedule, self.b1, self.b2, self.epsilon, weight_decay=self.weight_decay, mask=decayed)
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw)


def decayed(params: Any) -> Any:
    """Which leaves decay, a tree of bool: kernels and LoRA matrices do; biases, scales of norms and of LoRAs and
    everything that embeds (patches, time, text) do not.

    By name, because the shapes do not tell: stacked over blocks, biases have two axes.
    """

    def rule(path: tuple, _: Any) -> bool:
        names = [str(getattr(entry, "key", entry)) for entry in path]
        return names[-1] in DECAYED and not set(names) & set(NOT_DECAYED_WITHIN)

    return jax.tree_util.tree_map_with_path(rule, params)
