"""The stochastic step: its marginals are the ODE's, and it is finite where its formula is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.flow.schedule import sigmas
from lcv_jax.flow.solver import TAU, euler_step, sde_mean, sde_sigma, sde_step

MEAN, STD = 1.5, 0.4
"""Of the data of a Gaussian field, whose exact velocity is known."""
SAMPLES = 100_000
REPORT = sigmas("base", 16, shift=12.0)


def velocity(x, t):
    """E[x0 - noise | x_t = x] of normal data: both are linear in x."""
    variance = (1 - t) ** 2 * STD**2 + t**2
    return MEAN + ((1 - t) * STD**2 - t) / variance * (x - (1 - t) * MEAN)


@functools.partial(jax.jit, static_argnames="tau")
def marginals(levels, stochastic, tau=TAU):
    """Mean and variance of the samples at each level behind the first. stochastic: (n,) bool, steps of the SDE."""

    def step(x, at):
        index, t, t_next, noisy = at
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), index), x.shape)
        v = velocity(x, t)
        sde, _, _ = sde_step(x, v, t, t - t_next, noise, tau=tau)
        x = jnp.where(noisy, sde, euler_step(x, v, t, t_next))
        return x, (x.mean(), x.var())

    start = jax.random.normal(jax.random.key(0), (SAMPLES,))
    steps = jnp.arange(len(levels) - 1), levels[:-1], levels[1:], stochastic
    return jax.lax.scan(step, start, steps)[1]


def test_sde_and_ode_have_the_same_marginals():
    """Of 1e5 samples, at every level: those of the path itself."""
    levels = jnp.linspace(1, 0, 151)
    mean, variance = marginals(levels, jnp.ones(150, bool), tau=0.15)
    ode_mean, ode_variance = marginals(levels, jnp.zeros(150, bool), tau=0.15)
    t = np.asarray(levels[1:])
    exact = (1 - t) ** 2 * STD**2 + t**2
    for found, want in ((mean, (1 - t) * MEAN), (ode_mean, (1 - t) * MEAN)):
        np.testing.assert_allclose(found, want, atol=0.01)
    # A standard error of a variance is 0.45 %; the rest is what 150 steps leave of the exact solution.
    np.testing.assert_allclose(variance, exact, rtol=0.03)
    np.testing.assert_allclose(ode_variance, exact, rtol=0.03)
    np.testing.assert_allclose(variance, ode_variance, rtol=0.03)


@pytest.mark.parametrize("critical", [0, 5])
def test_one_stochastic_step_of_the_reports_schedule_moves_no_marginal(critical):
    """Of the first and the last that it may be. Its noise has a variance of 0.2; what a single step of this size misses
    is the square of half of that."""
    alone = jnp.arange(16) == critical
    mean, variance = marginals(jnp.asarray(REPORT), alone)
    ode_mean, ode_variance = marginals(jnp.asarray(REPORT), jnp.zeros(16, bool))
    np.testing.assert_allclose(mean[critical:], ode_mean[critical:], atol=0.015)
    np.testing.assert_allclose(variance[critical:], ode_variance[critical:], rtol=0.025)


def test_the_step_by_hand():
    """t = 0.5, dt = 0.02: s = 1, not clipped; the score is -(x - v / 2) / 0.5."""
    x, v, noise = (jnp.float32([value]) for value in (0.8, -0.6, 2.0))
    after, mean, std = sde_step(x, v, 0.5, 0.02, noise)
    assert float(mean[0]) == pytest.approx(0.8 + 0.02 * (-0.6 - 1 / (2 * 0.5) * (0.8 - 0.5 * -0.6)), rel=1e-6)
    assert float(std) == pytest.approx(0.02**0.5, rel=1e-6)
    assert float(after[0]) == pytest.approx(float(mean[0]) + 2 * 0.02**0.5, rel=1e-6)
    # t = 0.9, dt = 0.05: s would be 3, s sqrt(dt) 0.67; clipped in the drift as well.
    s = 0.45 / 0.05**0.5
    after, mean, std = sde_step(x, v, 0.9, 0.05, noise)
    assert float(std) == pytest.approx(0.45, rel=1e-6)
    assert float(mean[0]) == pytest.approx(0.8 + 0.05 * (-0.6 - s**2 / 1.8 * (0.8 - 0.1 * -0.6)), rel=1e-5)


@pytest.mark.smoke
def test_finite_at_both_ends_with_gradients():
    """At t = 1 the unclipped s is infinite, at t = 0 the drift divides by 0."""
    x, v, noise = (jax.random.normal(jax.random.key(i), (2, 3)) for i in range(3))
    t, dt = jnp.float32([1.0, 0.0]), jnp.float32([0.006, 0.01])

    def total(x, v, t):
        return sum(part.sum() for part in sde_step(x, v, t, dt, noise)[:2])

    _, mean, std = sde_step(x, v, t, dt, noise)
    np.testing.assert_allclose(std[:, 0], [0.45, 0], rtol=1e-6)
    np.testing.assert_allclose(mean[0], x[0] + 0.006 * v[0] - 0.45**2 / 2 * x[0], rtol=1e-5)
    np.testing.assert_allclose(mean[1], x[1] + 0.01 * (v[1] - (x[1] - v[1]) / 2), rtol=1e-5)
    for gradient in jax.grad(total, argnums=(0, 1))(x, v, t):
        assert np.isfinite(gradient).all()
    drift = jax.grad(lambda t: sde_mean(x, v, t, dt)[0].sum())(t)
    assert np.isfinite(drift).all()
    assert float(sde_sigma(1.0, 0.006)) == pytest.approx(0.45 / 0.006**0.5, rel=1e-6)


def test_levels_are_one_for_all_samples_or_one_for_each():
    x, v, noise = (jax.random.normal(jax.random.key(i), (3, 2, 4)) for i in range(3))
    t, dt = jnp.float32([1.0, 0.7, 0.3]), jnp.float32([0.01, 0.2, 0.1])
    together = sde_step(x, v, t, dt, noise)
    assert together[2].shape == (3, 1, 1)
    for i in range(3):
        alone = sde_step(x[i], v[i], t[i], dt[i], noise[i])
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, jnp.squeeze(all_[i]), rtol=1e-6)


def test_no_noise_is_the_ode():
    x, v, noise = (jax.random.normal(jax.random.key(i), (2, 3)) for i in range(3))
    for t, t_next in ((1.0, 0.9), (0.4, 0.0)):
        after, mean, std = sde_step(x, v, t, t - t_next, noise, a=0.0)
        np.testing.assert_allclose(after, euler_step(x, v, t, t_next), rtol=1e-6)
        np.testing.assert_array_equal(after, mean)
        assert float(std) == 0
