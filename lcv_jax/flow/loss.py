"""The loss of flow matching: what the network's velocity is compared with."""

import jax
import jax.numpy as jnp

Array = jax.Array


def squared_error(v: Array, target: Array, num_cond: int = 0) -> Array:
    """Mean squared error of the velocity over the noisy frames of each sample, (B,) float32.

    v: the network's (B, T, h, w, C). target: of that shape. The first num_cond frames are conditions: what the network
    says of them is not looked at.
    """
    error = v.astype(jnp.float32) - target.astype(jnp.float32)
    return jnp.square(error[:, num_cond:]).mean(axis=tuple(range(1, error.ndim)))
