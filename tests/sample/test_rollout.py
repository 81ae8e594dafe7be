"""Rollouts: plain sampling but for one step, which groups share and their members go through differently."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import training
from lcv_jax.errors import InputError
from lcv_jax.flow.solver import sde_sigma
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample.denoise import Conditioning, denoise, with_negative
from lcv_jax.sample.rollout import Exploration, Stochastic, draw, rollout

MODEL = training.dit()
SHAPE = (2, 4, 4, 16)
SIGMAS = np.float32([1, 0.9, 0.6, 0])
HOW = Exploration(steps=2)
run = jax.jit(rollout, static_argnames=("model", "how"))


@pytest.fixture(scope="module")
def variables():
    return {"params": training.awake(training.init(MODEL))}


def prompts(rows, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows, 3, training.TINY.caption_channels)).astype(np.float32)
    return TextStates(jnp.asarray(states), jnp.ones((rows, 3), bool))


TEXT = jax.tree.map(lambda x: jnp.repeat(x, 2, axis=0), prompts(2))
NEGATIVE = jax.tree.map(lambda x: jnp.repeat(x, 4, axis=0), prompts(1, seed=1))


def rolled(variables, drawn, how=HOW):
    return run(MODEL, variables, drawn, with_negative(NEGATIVE, TEXT), SIGMAS, jnp.float32(4), how)


@functools.cache
def drawn(seed=0):
    return draw(jax.random.key(seed), 2, 2, SHAPE, HOW.steps)


def sampled(variables, latents, sigmas):
    """Plain sampling from somewhere on."""
    return denoise(MODEL, variables, Conditioning(latents, TEXT, sigmas, negative=NEGATIVE, guidance=4.0))


def test_without_a_critical_step_it_is_plain_sampling(variables):
    none = dataclasses.replace(drawn(), critical=jnp.full(4, -1))
    latents, kept = rolled(variables, none)
    np.testing.assert_allclose(latents, sampled(variables, none.noise, SIGMAS), atol=2e-5)
    np.testing.assert_array_equal(kept.before, 0)


@pytest.mark.parametrize("critical", [0, 1])
def test_only_the_critical_step_is_stochastic(variables, critical):
    """Plain sampling leads to it, plain sampling leads away from it, and between them is the noise of each video."""
    some = dataclasses.replace(drawn(), critical=jnp.full(4, critical))
    latents, kept = rolled(variables, some)
    to, away = SIGMAS[: critical + 1], SIGMAS[critical + 1 :]
    before = some.noise if critical == 0 else sampled(variables, some.noise, to)
    np.testing.assert_allclose(kept.before, before, atol=2e-5)
    np.testing.assert_allclose(latents, sampled(variables, kept.after, away), atol=5e-5)
    np.testing.assert_array_equal(kept.t, to[-1])
    np.testing.assert_array_equal(kept.dt, to[-1] - away[0])
    std = sde_sigma(kept.t, kept.dt) * jnp.sqrt(kept.dt)
    noise = (kept.after - kept.mean) / std[:, None, None, None, None]
    assert np.std(noise) == pytest.approx(1, abs=0.05)
    assert abs(float(np.corrcoef(noise.reshape(4, -1))[0, 1])) < 0.15  # of two members of one group


@pytest.mark.smoke
def test_a_group_shares_all_but_the_noise_of_its_step(variables):
    latents, _ = rolled(variables, drawn())
    for first in (0, 2):
        np.testing.assert_array_equal(drawn().noise[first], drawn().noise[first + 1])
        np.testing.assert_array_equal(drawn().critical[first], drawn().critical[first + 1])
    assert np.abs(drawn().noise[0] - drawn().noise[2]).max() > 1
    apart = np.abs(latents[::2] - latents[1::2]).max(axis=(1, 2, 3, 4))
    assert (apart > 0.1).all()
    alike, _ = rolled(variables, dataclasses.replace(drawn(), keys=jnp.repeat(drawn().keys[::2], 2)))
    np.testing.assert_allclose(alike[::2], latents[::2], atol=2e-5)
    np.testing.assert_allclose(alike[1::2], latents[::2], atol=2e-5)


@pytest.mark.slow
def test_all_of_the_first_steps_may_be_stochastic(variables):
    """Members then part before the step that is learned from."""
    late = dataclasses.replace(drawn(), critical=jnp.full(4, 1))
    _, kept = rolled(variables, late, dataclasses.replace(HOW, stochastic=Stochastic.ALL))
    _, one = rolled(variables, late)
    assert np.abs(kept.before - one.before).max() > 0.1
    np.testing.assert_array_equal(kept.t, one.t)


def test_what_is_drawn():
    """Every index as often, and a group the same whatever the number of groups."""
    many = draw(jax.random.key(3), 6000, 2, (1, 1, 1, 1), 6)
    counts = np.bincount(many.critical[::2], minlength=6)
    assert len(counts) == 6
    np.testing.assert_allclose(counts, 1000, atol=120)
    assert np.std(many.noise) == pytest.approx(1, abs=0.02)
    few = draw(jax.random.key(3), 5, 2, (1, 1, 1, 1), 6)
    np.testing.assert_array_equal(few.noise, many.noise[:10])
    np.testing.assert_array_equal(few.critical, many.critical[:10])
    np.testing.assert_array_equal(jax.random.key_data(few.keys), jax.random.key_data(many.keys[:10]))
    assert len(np.unique(jax.random.key_data(many.keys[:200]), axis=0)) == 200


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"steps": 0}, "exploration, steps=0: expected at least 1"),
        ({"stochastic": "none"}, "stochastic='none': expected critical or all"),
        ({"a": 0.0}, "exploration, a=0.0: expected a number above 0"),
        ({"tau": float("inf")}, "exploration, tau=inf"),
    ],
)
def test_bad_settings_raise(change, match):
    with pytest.raises(InputError, match=match):
        Exploration(**change)
