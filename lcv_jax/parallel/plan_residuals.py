"""What differentiating the DiT keeps from forward to backward, read from the traced program.

JAX's own record of it is exact and follows the model and its remat policy by itself. It is an upper bound of what a
compiled program holds: compilers compute cheap element-wise arrays again instead of keeping them.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.models.dit import DiT
from lcv_jax.models.zoo import abstract_params
from lcv_jax.ops.attention import KEPT, Grid

Array = jax.Array

# Sizes that no other axis has, so that leaves can be told apart by their shapes.
_FRAME_TOKENS, _TEXT_TOKENS = 1009, 499


@dataclasses.dataclass(frozen=True)
class Residuals:
    """Bytes that differentiation keeps: for one video token in arrays that tensor parallelism cuts (`cut`) and in those
    that it does not (`whole`), and for one text token (`text`)."""

    cut: float
    whole: float
    text: float

    def bytes(self, tokens: int, text_tokens: int, heads: int) -> int:
        """tokens, text_tokens: on the device, of all rows. heads: devices that cut heads and inner widths."""
        return int(tokens * (self.cut / heads + self.whole) + text_tokens * self.text)

    def __sub__(self, other: "Residuals") -> "Residuals":
        return Residuals(self.cut - other.cut, self.whole - other.whole, self.text - other.text)


@functools.cache
def residuals(model: DiT) -> tuple[Residuals, Residuals]:
    """Of one block, and of all outside the blocks; for the model's precision, attention and remat policy."""
    one, two = (_traced(model, depth) for depth in (1, 2))
    layer = two - one
    return layer, one - layer


def _traced(model: DiT, depth: int) -> Residuals:
    config = dataclasses.replace(model.config, depth=depth)
    model = model.clone(config=config)
    params = abstract_params(config, model.precision)
    _, p, q = config.patch_size
    latents = jax.ShapeDtypeStruct((1, 1, p, q * _FRAME_TOKENS, config.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    text = jax.ShapeDtypeStruct((1, _TEXT_TOKENS, config.caption_channels), jnp.float32)

    def pull(params: Any, latents: Array, t: Array, text: Array) -> Any:
        return jax.vjp(lambda params: model.apply({"params": params}, latents, t, text), params)[1]

    given = {leaf.shape for leaf in jax.tree.leaves(params)}
    given |= {shape[1:] for shape in given if shape[0] == depth}
    cut = whole = words = 0.0
    for leaf in jax.tree.leaves(jax.eval_shape(pull, params, latents, t, text)):
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if leaf.shape in given:
            continue  # weights, as they are or in the compute dtype
        if _TEXT_TOKENS in leaf.shape:
            words += size / _TEXT_TOKENS
        elif {config.num_heads, config.ffn_size} & set(leaf.shape):
            cut += size / _FRAME_TOKENS
        else:
            whole += size / _FRAME_TOKENS
    return Residuals(cut, whole, words)


@dataclasses.dataclass(frozen=True)
class TracedAttention:
    """Stands for a fused attention while a program is traced: it keeps q, k, v, its output and the log-sum-exps for the
    backward pass, as those do, and computes nothing. kept: the name that a remat policy knows the outputs by."""

    kept: str = KEPT
    token_block: Grid | None = None
    parts: int = 1

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        grid_q: Grid | None = None,
        grid_k: Grid | None = None,
        key_mask: Array | None = None,
    ) -> Array:
        del grid_q, grid_k, key_mask
        return _attend(self.kept, q, k, v)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(name: str, q: Array, k: Array, v: Array) -> Array:
    return _forward(name, q, k, v)[0]


def _forward(name: str, q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    out, lse = checkpoint_name((q + v[:, :1, :1], jnp.zeros(q.shape[:-1], jnp.float32)), name)
    return out, (q, k, v, out, lse)


def _backward(name: str, kept: tuple[Array, ...], gradient: Array) -> tuple[Array, Array, Array]:
    del name
    return gradient, kept[1], kept[2]


_attend.defvjp(_forward, _backward)
