"""A video's tokens in raster order (T, H, W), or block by block for block sparse attention."""

from collections.abc import Callable

import jax

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import Grid
from lcv_kernels.pallas import from_blocks, to_blocks

Array = jax.Array


def to_order(x: Array, grid: Grid, block: Grid | None) -> Array:
    """Tokens (B, N, ...) of a (T, H, W) grid from raster order to blocks of (t, h, w) tokens; None leaves them.
    Raises InputError if the grid does not divide into the blocks."""
    return _moved(to_blocks, x, grid, block)


def from_order(x: Array, grid: Grid, block: Grid | None) -> Array:
    """The inverse of `to_order`."""
    return _moved(from_blocks, x, grid, block)


def _moved(move: Callable[[Array, Grid, Grid], Array], x: Array, grid: Grid, block: Grid | None) -> Array:
    if block is None:
        return x
    try:
        return move(x, grid, block)
    except ValueError as error:
        raise InputError(f"block sparse attention: {error}") from error
