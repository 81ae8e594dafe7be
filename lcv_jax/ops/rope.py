"""3-D rotary position embedding (SPEC: base 10000, interleaved pairs, integer positions, float32)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

BASE = 10000.0


class Rope(NamedTuple):
    """Tables of tokens, (..., d) float32: x turns into x * cos + partner(x) * sin, where partner exchanges the
    channels of a pair and sin carries the minus of the even ones."""

    cos: jax.Array
    sin: jax.Array


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """How the d channels of a head split over time, height and width: 44, 42, 42 for d = 128."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rope_angles(grid: tuple[int, int, int], head_dim: int) -> jax.Array:
    """Rotation angles (N, d / 2) in float32 of the tokens of a (T, H, W) grid in raster order.

    Channel pair i of an axis that owns `dim` channels turns by position * 10000^(-2i / dim).
    """
    T, H, W = grid
    parts = []
    for axis, dim in enumerate(axis_dims(head_dim)):
        frequency = (1.0 / BASE ** (np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)
        angle = jnp.arange(grid[axis], dtype=jnp.float32)[:, None] * frequency
        shape = [1, 1, 1, dim // 2]
        shape[axis] = grid[axis]
        parts.append(jnp.broadcast_to(angle.reshape(shape), (*grid, dim // 2)))
    return jnp.concatenate(parts, axis=-1).reshape(T * H * W, head_dim // 2)


def rope(grid: tuple[int, int, int], head_dim: int) -> Rope:
    """The tables of all tokens of a (T, H, W) grid; to be made once and used in every layer."""
    angles = jnp.repeat(rope_angles(grid, head_dim), 2, axis=-1)
    return Rope(jnp.cos(angles), jnp.sin(angles) * jnp.where(_even(head_dim), -1.0, 1.0))


def rotate(x: jax.Array, tables: Rope) -> jax.Array:
    """x (B, ..., h, d) rotated as the tables (..., d) of its tokens say; in float32, returned in x's dtype."""
    x32 = x.astype(jnp.float32)
    # Rolls and a choice rather than an axis of size 2, which accelerators pad.
    partner = jnp.where(_even(x.shape[-1]), jnp.roll(x32, -1, axis=-1), jnp.roll(x32, 1, axis=-1))
    return (x32 * tables.cos[..., None, :] + partner * tables.sin[..., None, :]).astype(x.dtype)


def _even(head_dim: int) -> np.ndarray:
    return np.arange(head_dim) % 2 == 0
