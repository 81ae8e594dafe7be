"""The straight path between data and noise, and the sign of the velocity, written here and nowhere else.

x_t = (1 - t) x0 + t noise with t = 0 data and t = 1 noise (report section 4, SPEC 8). The velocity points to the data:
v = x0 - noise = -dx_t / dt.

Refinement has a shorter path to the same data (SPEC 8): it begins at t_start with a clip that is already there, `start`
= noised(clip, noise, t_start), and x_t = x0 + (start - x0) t / t_start for t in [0, t_start]. With t_start = 1 nothing
of the clip is left, and the two paths are one.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def noised(x0: Array, noise: Array, t: Array) -> Array:
    """x_t in float32. t: any shape that broadcasts against x0."""
    t = jnp.asarray(t, jnp.float32)
    return (1 - t) * x0.astype(jnp.float32) + t * noise.astype(jnp.float32)


def onward(x0: Array, start: Array, t: Array, t_start: float) -> Array:
    """x_t of the path that begins with `start` at t_start, float32. t: in [0, t_start], broadcasts against x0."""
    return noised(x0, start, jnp.asarray(t, jnp.float32) / t_start)


def velocity(x0: Array, start: Array, t_start: float = 1.0) -> Array:
    """What the network learns: -dx_t / dt = (x0 - start) / t_start, float32. start: of the path; at 1 it is noise."""
    return (x0.astype(jnp.float32) - start.astype(jnp.float32)) / t_start


def move(x: Array, v: Array, t: Array, t_next: Array) -> Array:
    """x_t carried along v to t_next in a straight line, float32: exact where v does not change on the way."""
    return x.astype(jnp.float32) + (jnp.asarray(t, jnp.float32) - t_next) * v.astype(jnp.float32)
