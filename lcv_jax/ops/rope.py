"""3-D rotary position embedding (SPEC: base 10000, interleaved pairs, integer positions, float32)."""

import jax
import jax.numpy as jnp
import numpy as np

BASE = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """How the d channels of a head split over time, height and width: 44, 42, 42 for d = 128."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def rope_angles(grid: tuple[int, int, int], head_dim: int, first_frame: int = 0) -> jax.Array:
    """Rotation angles (N, d / 2) in float32 of the tokens of a (T, H, W) grid in raster order.

    first_frame: position of the grid's first frame on the time axis (the number of cached condition frames).
    Channel pair i of an axis that owns `dim` channels turns by position * 10000^(-2i / dim).
    """
    T, H, W = grid
    positions = (jnp.arange(first_frame, first_frame + T), jnp.arange(H), jnp.arange(W))
    parts = []
    for axis, (dim, position) in enumerate(zip(axis_dims(head_dim), positions, strict=True)):
        frequency = (1.0 / BASE ** (np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)
        angle = position.astype(jnp.float32)[:, None] * frequency
        shape = [1, 1, 1, dim // 2]
        shape[axis] = grid[axis]
        parts.append(jnp.broadcast_to(angle.reshape(shape), (*grid, dim // 2)))
    return jnp.concatenate(parts, axis=-1).reshape(T * H * W, head_dim // 2)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """x (B, N, h, d) with channel pairs (2i, 2i + 1) turned by angles (N, d / 2); in float32, returned in x's dtype."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    cos, sin = jnp.cos(angles)[:, None, :], jnp.sin(angles)[:, None, :]
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)
