"""What a block keeps from the forward to the backward pass, by name; the rest is computed again (rematerialised)."""

import enum
from collections.abc import Callable
from typing import Any

import jax

from lcv_jax.errors import InputError


class Remat(enum.StrEnum):
    """NONE: everything is kept. DOTS: the outputs of products with weights, so that attention and element-wise work is
    repeated. FULL: nothing but the block's input, so that its whole forward pass is repeated."""

    NONE = "none"
    DOTS = "dots"
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
        return policies.dots_with_no_batch_dims_saveable if self is Remat.DOTS else policies.nothing_saveable
