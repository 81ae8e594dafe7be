"""Steps of the sampler from t to a smaller t_next."""

import jax

from lcv_jax.flow.path import move

Array = jax.Array


def euler_step(x: Array, v: Array, t: Array, t_next: Array) -> Array:
    """One explicit Euler step of the ODE dx/dt = -v (SPEC 6), float32. t, t_next in [0, 1], t_next < t."""
    return move(x, v, t, t_next)
