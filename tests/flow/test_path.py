import itertools

import jax.numpy as jnp
import numpy as np

from lcv_jax.flow.path import noised, velocity
from lcv_jax.flow.schedule import sigmas
from lcv_jax.flow.solver import euler_step


def _ends():
    rng = np.random.default_rng(0)
    return (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))


def test_the_velocity_leads_from_noise_to_data():
    """On a straight path the field is constant, so Euler is exact whatever the steps: noise in, data out."""
    x0, noise = _ends()
    for kind in ("base", "distilled", "enhance_hf"):
        x, levels = noise, sigmas(kind, 7)
        for t, t_next in itertools.pairwise(levels):
            x = euler_step(x, velocity(x0, noise), t, t_next)
            np.testing.assert_allclose(x, noised(x0, noise, t_next), atol=1e-5)
        np.testing.assert_allclose(x, x0, atol=1e-5)


def test_a_linear_field_is_solved_to_first_order():
    """Data at the origin: v = -x / t, whose solution is x(t) = t noise; the velocity shrinks the noise."""
    _, noise = _ends()
    x, levels = noise, sigmas("base", 200)
    for t, t_next in itertools.pairwise(levels):
        x = euler_step(x, -x / t, t, t_next)
    np.testing.assert_allclose(x, 0 * noise, atol=1e-5)


def test_the_ends_of_the_path():
    x0, noise = _ends()
    np.testing.assert_array_equal(noised(x0, noise, 0.0), x0)
    np.testing.assert_array_equal(noised(x0, noise, 1.0), noise)
    assert noised(x0.astype(jnp.bfloat16), noise, 0.5).dtype == jnp.float32
