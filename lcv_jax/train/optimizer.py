"""The optimizers. AdamW is the report's: a constant rate for each stage, here after a warm-up, with clipped gradients.

Muon is ours, for what is trained from scratch on little hardware: in one trial with pictures, the toy world's
autoencoder came back with 20.3 dB after 200 of its steps and 23.4 dB after 400, with 19.6 dB after 400 of AdamW's best.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from lcv_jax.errors import InputError

DECAYED = ("kernel", "down", "up")
"""Last names of the leaves that decay: the matrices of products, of layers and of their LoRAs."""
EMBEDS = ("x_embedder", "t_embedder", "y_embedder", "embedding")
"""Modules none of whose leaves decay: what embeds."""
ENDS = ("final_layer", "shared", "reader")
"""Modules that Muon leaves to Adam besides: it is for matrices between hidden layers (Jordan et al. 2024)."""
STACKED = ("blocks", "block")
"""Modules whose leaves have an axis of layers in front."""
_LIKE_ADAM = 0.2  # root mean square of an orthogonal update, that of AdamW's in practice (Liu et al. 2025)


@dataclasses.dataclass(frozen=True)
class AdamW:
    """rate: reached after `warmup` steps, then constant, or falling in a straight line from one step of `cooldown` to 0
    at the other. clip: largest global norm of a gradient. weight_decay: times the rate, per step, of the leaves that
    `decayed` tells. The report gives the rates; the others are ours."""

    rate: float
    warmup: int = 1000
    clip: float = 1.0
    weight_decay: float = 0.01
    b1: float = 0.9
    b2: float = 0.95
    epsilon: float = 1e-8
    cooldown: tuple[int, int] | None = None

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
        if self.cooldown is not None and not 0 <= self.cooldown[0] < self.cooldown[1]:
            raise InputError(f"optimizer, cooldown={self.cooldown}: expected two steps, the first below the second")

    def schedule(self, step: jax.Array) -> jax.Array:
        """The rate of step 0, 1, ...: the first step of a warm-up of n already moves, by rate / n."""
        rate = jnp.float32(self.rate)
        if self.warmup:
            rate = self.rate * jnp.minimum(1.0, (step + 1) / self.warmup)
        if self.cooldown is not None:
            start, end = self.cooldown
            rate *= jnp.clip((end - step) / (end - start), 0.0, 1.0)
        return rate

    def make(self) -> optax.GradientTransformation:
        """The optimizer of a tree of float32 parameters."""
        adamw = optax.adamw(self.schedule, self.b1, self.b2, self.epsilon, weight_decay=self.weight_decay, mask=decayed)
        return optax.chain(optax.clip_by_global_norm(self.clip), adamw)


@dataclasses.dataclass(frozen=True)
class Muon(AdamW):
    """Momentum with orthogonal steps for the kernels between hidden layers, and Adam for all else (optax.contrib), both
    in Nesterov's form.

    The fields are AdamW's and hold for both, but what Adam moves does not decay. Steps of either have about the same
    root mean square, so that rates can be compared. adam_share: of the rate, for what Adam moves. momentum: of the
    kernels.
    """

    adam_share: float = 0.5
    momentum: float = 0.95

    def __post_init__(self):
        super().__post_init__()
        if not self.adam_share > 0:
            raise InputError(f"optimizer, adam_share={self.adam_share!r}: expected a number above 0")
        if not 0 <= self.momentum < 1:
            raise InputError(f"optimizer, momentum={self.momentum!r}: expected a number from 0 to below 1")

    def make(self) -> optax.GradientTransformation:
        muon = optax.contrib.muon(
            self.schedule,
            beta=self.momentum,
            eps=self.epsilon,
            weight_decay=self.weight_decay,
            weight_decay_mask=decayed,
            adam_b1=self.b1,
            adam_b2=self.b2,
            adam_learning_rate=lambda step: self.adam_share * self.schedule(step),
            muon_weight_dimension_numbers=orthogonalised,
            consistent_rms=_LIKE_ADAM,
        )
        return optax.chain(optax.clip_by_global_norm(self.clip), muon)


def decayed(params: Any) -> Any:
    """Which leaves decay, a tree of bool: kernels and LoRA matrices do; biases, scales of norms and of LoRAs and
    everything that embeds (patches, time, text) do not.

    By name, because the shapes do not tell: stacked over blocks, biases have two axes.
    """

    def rule(path: tuple, _: Any) -> bool:
        names = _names(path)
        return names[-1] in DECAYED and not set(names) & set(EMBEDS)

    return jax.tree_util.tree_map_with_path(rule, params)


def orthogonalised(params: Any) -> Any:
    """For each leaf the axes of the matrix that Muon makes orthogonal, None where Adam moves it.

    A kernel's inputs are all axes but the last, of convolutions with their window. Layers and the parts of fused
    projections are matrices of their own.
    """

    def rule(path: tuple, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        names = _names(path)
        if names[-1] != "kernel" or set(names) & {*EMBEDS, *ENDS}:
            return None
        layers = int(bool(set(names) & set(STACKED)))
        fused = layers and leaf.ndim == layers + 3  # (layers, inputs, parts, outputs)
        inputs = (layers,) if fused else tuple(range(layers, leaf.ndim - 1))
        return optax.contrib.MuonDimensionNumbers(inputs, leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(rule, params)


def _names(path: tuple) -> list[str]:
    return [str(getattr(entry, "key", entry)) for entry in path]
