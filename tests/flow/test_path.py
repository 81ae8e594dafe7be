import itertools

import jax.numpy as jnp
import numpy as np

from lcv_jax.flow.path import move, noised, onward, velocity
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


def test_the_path_from_a_clip_by_hand():
    """At t_start it is where refinement starts, at 0 the data; the velocity carries it there in one step."""
    x0, clip, noise = (jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32))
    start = noised(clip, noise, 0.5)
    np.testing.assert_allclose(start, 0.5 * clip + 0.5 * noise, atol=1e-6)
    np.testing.assert_allclose(onward(x0, start, 0.5, 0.5), start, atol=1e-6)
    np.testing.assert_array_equal(onward(x0, start, 0.0, 0.5), x0)
    np.testing.assert_allclose(onward(x0, start, 0.2, 0.5), x0 + (start - x0) * 0.4, atol=1e-6)
    v = velocity(x0, start, 0.5)
    np.testing.assert_allclose(v, 2 * (x0 - start), atol=1e-6)
    for t in (0.5, 0.2):
        np.testing.assert_allclose(move(onward(x0, start, t, 0.5), v, t, 0.0), x0, atol=1e-6)


def test_from_pure_noise_it_is_the_plain_path():
    x0, clip, noise = (jnp.asarray(x) for x in np.random.default_rng(1).normal(size=(3, 2, 4)).astype(np.float32))
    start = noised(clip, noise, 1.0)
    np.testing.assert_array_equal(onward(x0, start, 0.3, 1.0), noised(x0, noise, 0.3))
    np.testing.assert_array_equal(velocity(x0, start, 1.0), velocity(x0, noise))
