"""The loss of flow matching: what the network's velocity is compared with."""

import jax
import jax.numpy as jnp

from lcv_jax.flow.path import velocity

Array = jax.Array


def velocity_error(v: Array, x0: Array, noise: Array, num_cond: int = 0) -> Array:
    """Mean squared error of the velocity over the noisy frames of each sample, (B,) float32.

    v: the network's (B, T, h, w, C). x0: clean latents, noise: what they were mixed with, both of that shape. The first
    num_cond frames are conditions: what the network says of them is not looked at.
    """
    return squared_error(v, velocity(x0, noise), num_cond)


def squared_error(v: Array, target: Array, num_cond: int = 0) -> Array:
    """The same, (B,) float32, against any velocity (B, T, h, w, C)."""
    error = v.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.square(error[:, num_cond:]).mean(axis=tuple(range(1, error.ndim)))
