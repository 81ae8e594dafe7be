"""What a block keeps from the forward to the backward pass, by name; the rest is computed again (rematerialised)."""

import enum
from collections.abc import Callable
from typing import Any

import jax

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import KEPT


class Remat(enum.StrEnum):
    """NONE: everything is kept. DOTS: the outputs of products with weights, so that attention and element-wise work is
    repeated. ATTENTION: the outputs of self-attention, and the log-sum-exps where a kernel has them, so that the one
    part that is quadratic in the tokens is not repeated; next to the block's input that is as much again. FULL: nothing
    but the block's input, so that its whole forward pass is repeated."""

    NONE = "none"
    DOTS = "dots"
    ATTENTION = "attention"
    FULL = "full"

    @classmethod
    def named(cls, name: str) -> "Remat":
        """Raises InputError for a name that is none."""
        try:
            return cls(name)
        except ValueError:
            raise InputError(f"remat {name!r} is not known: expected one of {', '.join(cls)}") from None

    @property
    def policy(self) -> Callable[..., Any]:
        """What `jax.checkpoint` may keep; not for NONE."""
        policies = jax.checkpoint_policies
        if self is Remat.DOTS:
            return policies.dots_with_no_batch_dims_saveable
        return _attention if self is Remat.ATTENTION else policies.nothing_saveable


def _attention(primitive: Any, *operands: Any, **params: Any) -> Any:
    """Keeps what attentions have named, and what cuDNN's, which names nothing, needs for its backward pass: its output
    and its softmax's statistics. Attention to text has fewer keys than queries; it is cheap, and not kept."""
    if primitive.name.startswith("dot_product_attention_fwd"):
        query, key = operands[:2]
        return key.shape[1] >= query.shape[1]
    return _named(primitive, *operands, **params)


_named = jax.checkpoint_policies.save_only_these_names(KEPT)
