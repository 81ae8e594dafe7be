"""Ulysses: tokens change places with heads, so that every device attends with a few heads among all tokens.

arXiv 2309.14509. Four all-to-alls, of queries, keys, values and outputs; between them runs what runs on one device,
on the same tokens in the same order.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lcv_jax.ops.attention import Attention, Grid
from lcv_jax.parallel.slabs import real_tokens

Array = jax.Array


def ulysses_attention(
    q: Array, k: Array, v: Array, *, axes: Sequence[str], inner: Attention, grid_q: Grid, grid_k: Grid
) -> Array:
    """Attention of a device's share of the tokens; inside shard_map.

    q: (B, A, S / n, h, d) and k, v: (B, A', S' / n, h, d), n the devices along `axes`, h a multiple of n; grids as in
    `ops.attention.Attention`. inner: the attention of one device; padding is cut off before it. Returns (B, A, S / n,
    h, d); the outputs of padding are 0.
    """
    share = q.shape[2]
    q = _all_tokens(q, axes, grid_q)
    k, v = (_all_tokens(x, axes, grid_k) for x in (k, v))
    out = inner(q, k, v, grid_q=grid_q, grid_k=grid_k)
    padding = share * jax.lax.axis_size(axes) - out.shape[2]
    out = jnp.pad(out, ((0, 0), (0, 0), (0, padding), (0, 0), (0, 0)))
    return jax.lax.all_to_all(out, axes, split_axis=2, concat_axis=3, tiled=True)


def _all_tokens(x: Array, axes: Sequence[str], grid: Grid) -> Array:
    """(B, A, S / n, h, d) -> (B, A, real tokens, h / n, d)."""
    x = jax.lax.all_to_all(x, axes, split_axis=3, concat_axis=2, tiled=True)
    return x[:, :, : real_tokens(grid, x.shape[1])]
