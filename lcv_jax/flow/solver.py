"""Steps of the sampler from t to a smaller t_next: of the ODE, and of the SDE with the same marginals."""

import jax
import jax.numpy as jnp

from lcv_jax.flow.path import move

Array = jax.Array
F32 = jnp.float32
TAU = 0.45
"""The largest standard deviation of a stochastic step's noise (SPEC 8)."""


def euler_step(x: Array, v: Array, t: Array, t_next: Array) -> Array:
    """One explicit Euler step of the ODE dx/dt = -v (SPEC 6), float32. t, t_next in [0, 1], t_next < t."""
    return move(x, v, t, t_next)


def sde_step(
    x: Array, v: Array, t: Array, dt: Array, noise: Array, a: float = 1.0, tau: float = TAU
) -> tuple[Array, Array, Array]:
    """One Euler-Maruyama step towards data of the SDE that has the ODE's marginals (SPEC 8, GRPO).

    x' = x + dt [v - s^2 / (2t) (x - (1 - t) v)] + s sqrt(dt) noise, s as `sde_sigma` has it: what is taken from x is
    s^2 / 2 times the score, because x - (1 - t) v is t times the expected noise.

    x, v: (B, ...). t in [0, 1], dt > 0 with dt <= t: () or (B,). noise: standard normal, like x. Returns x', its mean
    and its standard deviation; the first two like x, the last shaped to broadcast against x. All float32, and finite
    with their gradients at t = 1.
    """
    mean, std = sde_mean(x, v, t, dt, a, tau)
    return mean + std * jnp.asarray(noise, F32), mean, std


def sde_mean(x: Array, v: Array, t: Array, dt: Array, a: float = 1.0, tau: float = TAU) -> tuple[Array, Array]:
    """Mean and standard deviation of what `sde_step` gives."""
    x, v, t, dt = (jnp.asarray(value, F32) for value in (x, v, t, dt))
    variance, over_t = _variance(t, dt, a, tau)
    t, dt, variance, over_t = (_like(value, x) for value in (t, dt, variance, over_t))
    mean = x + dt * (v - over_t / 2 * (x - (1 - t) * v))
    return mean, jnp.sqrt(variance * dt)


def sde_sigma(t: Array, dt: Array, a: float = 1.0, tau: float = TAU) -> Array:
    """s of a step: a sqrt(t / (1 - t)), but at most tau / sqrt(dt). t, dt: of shapes that broadcast, like the result.

    The bound is on the noise that a step adds, s sqrt(dt) <= tau: unbounded it would be infinite at t = 1.
    """
    return jnp.sqrt(_variance(jnp.asarray(t, F32), jnp.asarray(dt, F32), a, tau)[0])


def _variance(t: Array, dt: Array, a: float, tau: float) -> tuple[Array, Array]:
    """s^2, and s^2 / t, which has a limit at t = 0. Neither branch divides by 0 where it is not taken, as gradients
    would become NaN there."""
    room = 1 - t
    free = a**2 / jnp.where(room > 0, room, 1)
    bounded = a**2 * t * dt > tau**2 * room
    bound = tau**2 / dt
    return jnp.where(bounded, bound, free * t), jnp.where(bounded, bound / jnp.where(t > 0, t, 1), free)


def _like(value: Array, x: Array) -> Array:
    """() or (B,) for each sample of x."""
    return value if value.ndim == 0 else value.reshape(-1, *(1,) * (x.ndim - 1))
