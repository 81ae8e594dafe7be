"""The loss finds the velocity of a distribution whose velocity is known, with the sign that leads to the data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.flow.loss import squared_error
from lcv_jax.flow.path import noised, velocity
from lcv_jax.flow.solver import euler_step

S = 0.3
"""Standard deviation of the data: normal, mean 0, so that the best velocity is linear in x."""
SHAPE = (4096, 1, 2, 2, 2)


def best_slope(t):
    """E[x0 - noise | x_t] / x_t by the formula of conditional normals."""
    return ((1 - t) * S**2 - t) / ((1 - t) ** 2 * S**2 + t**2)


def fitted_slope(key, t):
    """The slope a at which the loss of v = a x_t is least: its gradient is linear in a."""
    x0, noise = S * jax.random.normal(key, SHAPE), jax.random.normal(jax.random.fold_in(key, 1), SHAPE)
    x = noised(x0, noise, t)
    slope = jax.grad(lambda a: squared_error(a * x, velocity(x0, noise)).mean())
    return -slope(0.0) / (slope(1.0) - slope(0.0))


@pytest.mark.smoke
def test_a_linear_field_is_recovered_with_its_sign():
    for t in (0.02, 0.5, 0.9):
        assert float(fitted_slope(jax.random.key(3), t)) == pytest.approx(best_slope(t), abs=0.05)
        assert abs(best_slope(t)) > 0.5, "too small for a flipped sign to be seen"


@pytest.mark.parametrize(("sign", "arrives"), [(1, True), (-1, False)])
def test_what_the_loss_finds_leads_from_noise_to_data(sign, arrives):
    fit = jax.jit(fitted_slope)
    levels = np.linspace(1, 0, 41, dtype=np.float32)
    x = jax.random.normal(jax.random.key(0), (20_000,))
    for t, after in itertools.pairwise(levels):
        x = euler_step(x, sign * fit(jax.random.key(1), t) * x, t, after)
    assert (abs(float(x.std()) - S) < 0.02) == arrives


def test_only_noisy_frames_count_each_sample_by_itself():
    rng = np.random.default_rng(0)
    v, x0, noise = (jnp.asarray(rng.normal(size=(3, 4, 2, 2, 5)), jnp.float32) for _ in range(3))
    error = squared_error(v, velocity(x0, noise), num_cond=1)
    expected = np.square(np.asarray(v - (x0 - noise))[:, 1:]).reshape(3, -1).mean(1)
    np.testing.assert_allclose(error, expected, rtol=1e-6)
    np.testing.assert_array_equal(squared_error(v.at[:, 0].set(jnp.nan), velocity(x0, noise), 1), error)
    assert squared_error(v.astype(jnp.bfloat16), velocity(x0, noise)).dtype == jnp.float32
