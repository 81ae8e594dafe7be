"""Raster order of tokens to block order and back."""

import math
from collections.abc import Sequence

import jax
import numpy as np

Array = jax.Array
Shape3 = tuple[int, int, int]


def blocks_of(grid: Shape3, block: Shape3, name: str = "grid") -> Shape3:
    """How many blocks of (t, h, w) tokens a grid of (T, H, W) tokens has per axis.

    Raises ValueError where the grid does not divide, and says which sizes would.
    """
    for what, sizes in ((name, grid), ("its block", block)):
        whole = isinstance(sizes, Sequence) and all(isinstance(size, int | np.integer) for size in sizes)
        if not whole or len(sizes) != 3 or min(sizes) < 1:
            raise ValueError(f"{what} is {sizes}: expected three positive sizes (T, H, W)")
    if all(size % edge == 0 for size, edge in zip(grid, block, strict=True)):
        return tuple(size // edge for size, edge in zip(grid, block, strict=True))
    remedies = []
    for axis, size, edge in zip("THW", grid, block, strict=True):
        if size % edge:
            below = size // edge * edge
            fits = f"{below} or {below + edge}" if below else f"{edge}"
            remedies.append(f"{axis} {size} is no multiple of {edge} ({fits} would be)")
    raise ValueError(
        f"{name} {tuple(grid)} does not divide into blocks of {tuple(block)} tokens: {'; '.join(remedies)}. "
        "Change the size of the video or the shape of the block"
    )


def to_blocks(x: Array, grid: Shape3, block: Shape3) -> Array:
    """Tokens in raster order (B, N, ...) to the same tokens in block order (B, N, ...).

    grid: (T, H, W) in tokens, T * H * W = N. block: (t, h, w) in tokens. Raises ValueError if either does not fit.
    """
    counts = blocks_of(grid, block)
    _check_tokens(x, grid)
    split = [size for pair in zip(counts, block, strict=True) for size in pair]
    return x.reshape(x.shape[0], *split, -1).transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(x.shape)


def from_blocks(x: Array, grid: Shape3, block: Shape3) -> Array:
    """The inverse of `to_blocks`."""
    counts = blocks_of(grid, block)
    _check_tokens(x, grid)
    return x.reshape(x.shape[0], *counts, *block, -1).transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(x.shape)


def block_order(grid: Shape3, block: Shape3) -> np.ndarray:
    """(N,) int32, the raster place of each token of the block order: to_blocks(x) is x[:, block_order]."""
    places = np.arange(math.prod(grid), dtype=np.int32)
    return to_blocks(places[None], grid, block)[0]


def _check_tokens(x: Array, grid: Shape3) -> None:
    if x.ndim < 2 or x.shape[1] != math.prod(grid):
        raise ValueError(
            f"tokens of shape {x.shape} do not fill grid {tuple(grid)}: expected (B, {math.prod(grid)}, ...)"
        )
