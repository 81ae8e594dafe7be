"""How many of a slab's tokens are real."""

import math

from lcv_jax.ops.attention import Grid


def real_tokens(grid: Grid, slabs: int) -> int:
    """Tokens of each of the `slabs` that a video of the grid (T, H, W) stands in, padding left out."""
    return math.prod(grid) // slabs
