"""Which levels training visits and how much they count, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.flow.noise_levels import level, level_below, loss_weight, token_shift
from lcv_jax.flow.schedule import sigmas

pytestmark = pytest.mark.smoke


def test_the_weight_is_a_density_over_u():
    n = 100_000
    u = (jnp.arange(n) + 0.5) / n
    assert float(loss_weight(u).mean()) == pytest.approx(1, abs=1e-4)
    # The density of a variable whose logit is standard normal: its median is 0.5, 68.27 % lie between logits -1 and 1.
    inside = (u > 1 / (1 + np.e)) & (u < np.e / (1 + np.e))
    assert float(jnp.where(inside, loss_weight(u), 0).mean()) == pytest.approx(0.68269, abs=1e-3)


def test_the_weight_at_some_points():
    assert float(loss_weight(jnp.float32(0.5))) == pytest.approx(4 / np.sqrt(2 * np.pi), rel=1e-6)
    u = jnp.asarray([0.01, 0.2, 0.4])
    np.testing.assert_allclose(loss_weight(u), loss_weight(1 - u), rtol=1e-4)
    np.testing.assert_allclose(loss_weight(jnp.asarray([0.0, 1.0])), 0, atol=1e-30)
    assert loss_weight(jnp.bfloat16(0.3)).dtype == jnp.float32


@pytest.mark.parametrize(("tokens", "shift"), [(256, 1), (1024, 2), (37_440, 12.093), (1560 * 23, 11.839)])
def test_the_shift_grows_with_the_noisy_tokens(tokens, shift):
    assert token_shift(tokens) == pytest.approx(shift, abs=1e-3)


def test_levels_keep_the_ends_and_move_towards_noise():
    u = jnp.linspace(0, 1, 11)
    np.testing.assert_array_equal(level(u, 1.0), u)
    moved = level(u, 12.0)
    assert moved[0] == 0
    assert moved[-1] == 1
    assert float(moved[5]) == pytest.approx(6 / 6.5)
    assert (jnp.diff(moved) > 0).all()


@pytest.mark.parametrize(("shift", "steps"), [(12.0, 50), (3.0, 50)])
def test_levels_below_a_threshold_are_those_that_refinement_visits(shift, steps):
    """Its schedule's, which are equally far apart in u: 5 of the published 50 steps, a fifth of u each."""
    visited = sigmas("refine", steps, shift=shift, t_thresh=0.5)[1:-1]  # the first is the threshold itself
    grid = sigmas("base", steps, shift=1.0)[:-1][-len(visited) :]
    edge = 0.5 / (shift - (shift - 1) * 0.5)
    np.testing.assert_allclose(level_below(jnp.asarray(grid / edge), shift, 0.5), visited, rtol=1e-4)
    u = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(level_below(u, shift, 0.5)[jnp.array([0, 10])], [0, 0.5], atol=1e-6)
    np.testing.assert_allclose(level_below(u, shift, 1.0), level(u, shift), rtol=1e-6)
