"""The straight path between data and noise, and the sign of the velocity, written here and nowhere else.

x_t = (1 - t) x0 + t noise with t = 0 data and t = 1 noise (report section 4, SPEC 8). The velocity points to the data:
v = x0 - noise = -dx_t / dt.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def noised(x0: Array, noise: Array, t: Array) -> Array:
    """x_t in float32. t: any shape that broadcasts against x0."""
    t = jnp.asarray(t, jnp.float32)
    return (1 - t) * x0.astype(jnp.float32) + t * noise.astype(jnp.float32)


def velocity(x0: Array, noise: Array) -> Array:
    """What the network learns: x0 - noise, float32."""
    return x0.astype(jnp.float32) - noise.astype(jnp.float32)


def move(x: Array, v: Array, t: Array, t_next: Array) -> Array:
    """x_t carried along v to t_next in a straight line, float32: exact where v does not change on the way."""
    return x.astype(jnp.float32) + (jnp.asarray(t, jnp.float32) - t_next) * v.astype(jnp.float32)
