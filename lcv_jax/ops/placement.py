"""Where arrays live on a mesh, as a value that models are given; they know logical axes only."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Array = jax.Array


class Placement(Protocol):
    """Lays arrays out as their logical axes say; the values do not change.

    axes: one name for each axis of x, None where it is whole on every device. The names are those of
    `lcv_jax.parallel.rules`. Like an attention it is a static argument of jitted functions: a frozen value.
    """

    def __call__(self, x: Array, axes: Sequence[str | None]) -> Array:
        """Inside jit: asks the compiler for it."""
        ...

    def put(self, x: Any, axes: Sequence[str | None] | None = None) -> Array:
        """Outside: an array that every process holds whole, onto the devices; axes None: whole on each of them."""
        ...


@dataclasses.dataclass(frozen=True)
class Anywhere:
    """The placement of a single device."""

    def __call__(self, x: Array, axes: Sequence[str | None]) -> Array:
        del axes
        return x

    def put(self, x: Any, axes: Sequence[str | None] | None = None) -> Array:
        del axes
        return jnp.asarray(x)


anywhere = Anywhere()
