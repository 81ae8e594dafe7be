"""GRPO against hand arithmetic: advantages, weights, ratio, divergence, and the gradient that reaches the LoRA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import linear_model
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import sigmas
from lcv_jax.flow.solver import sde_mean, sde_sigma, sde_step
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.grpo import (
    GRPO,
    Judged,
    Scale,
    Weighting,
    advantages,
    complete,
    gaussian_kl,
    log_ratio,
    loss_weights,
)
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.prompts import NEGATIVE
from lcv_jax.sample.rollout import Exploration, Transition

REPORT = sigmas("base", 16, shift=12.0)
T, DT = REPORT[:-1], REPORT[:-1] - REPORT[1:]


def test_advantages_by_hand():
    """Two rewards, two groups of two: deviations 1 and 3 of the first, whose largest std is 3; 0.5 and 0 of the second,
    whose is 0.5."""
    rewards = [[[1.0, 3.0], [10.0, 16.0]], [[0.0, 1.0], [7.0, 7.0]]]
    found = advantages(rewards, [2.0, 1.0])
    np.testing.assert_allclose(found, [[-2 / 3 - 1, 2 / 3 + 1], [-2, 2]], rtol=1e-6)
    np.testing.assert_allclose(advantages(rewards, [0.0, 1.0]), [[-1, 1], [0, 0]], rtol=1e-6)
    own = advantages(rewards, [2.0, 1.0], Scale.OWN)
    np.testing.assert_allclose(own, [[-3, 3], [-2, 2]], rtol=1e-6)


def test_the_standard_deviation_is_that_of_a_population():
    found = advantages([[[1.0, 2.0, 6.0]]], [1.0])
    np.testing.assert_allclose(found, [np.array([-2, -1, 3]) / np.sqrt(14 / 3)], rtol=1e-6)


@pytest.mark.parametrize("value", [0.1, 0.7, -3.3, 1e6 + 0.1])
def test_equal_rewards_give_nothing(value):
    """Though their mean is rounded."""
    found = advantages(np.full((2, 3, 7), value, np.float32), [1.0, 1.0])
    np.testing.assert_array_equal(found, 0)


def test_a_group_without_a_score_gets_nothing_and_counts_in_no_maximum():
    rewards = np.float32([[[0, 2], [0, 100], [5, 5]], [[1, 1], [np.nan, 0], [0, 4]]])
    found = advantages(rewards, [1.0, 1.0])
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_allclose(found[[0, 2]], advantages(rewards[:, [0, 2]], [1.0, 1.0]), rtol=1e-6)
    np.testing.assert_array_equal(advantages(np.full((1, 2, 2), np.nan), [1.0]), 0)
    np.testing.assert_array_equal(complete(rewards, [1.0, 1.0]), [True, False, True])


def test_a_reward_without_a_weight_may_fail():
    """It is only looked at."""
    rewards = np.float32([[[0, 2], [0, 4]], [[1, 1], [np.nan, 0]]])
    np.testing.assert_array_equal(complete(rewards, [1.0, 0.0]), [True, True])
    np.testing.assert_array_equal(advantages(rewards, [1.0, 0.0]), advantages(rewards[:1], [1.0]))


@settings(deadline=None, max_examples=50)
@given(arrays.arrays(np.float64, (2, 3, 4), elements=st.floats(-100, 100, width=32)), st.floats(0.5, 8))
def test_advantages_do_not_depend_on_a_rewards_scale_and_zero(rewards, factor):
    weights = [1.0, 3.0]
    found = advantages(rewards, weights)
    np.testing.assert_allclose(found.sum(axis=1), 0, atol=1e-4)
    spreads = rewards.std(axis=2)
    if ((spreads.max(axis=1) > 1e-3) | (spreads.max(axis=1) == 0)).all():
        moved = rewards * np.array([factor, 1])[:, None, None] + np.array([3.0, -1.0])[:, None, None]
        np.testing.assert_allclose(advantages(moved, weights), found, atol=1e-3)


@pytest.mark.parametrize(
    ("shape", "weights", "match"),
    [
        ((2, 3), [1, 1], r"rewards \(2, 3\) with weights \(2,\): expected \(K, P, G\)"),
        ((2, 3, 4), [1], r"with weights \(1,\)"),
        ((1, 3, 1), [1], "groups of 1: expected at least 2 videos"),
        ((2, 3, 4), [0, 0], "their sum is 0; expected numbers from 0 with a sum above 0"),
        ((2, 3, 4), [1, -1], "expected numbers from 0"),
        ((1, 3, 4), [np.nan], "expected numbers from 0"),
    ],
)
def test_bad_rewards_raise(shape, weights, match):
    with pytest.raises(InputError, match=match):
        advantages(np.zeros(shape), weights)


def test_weights_by_hand():
    """At t = 0.5 s is 1; at 0.9 it would be 3, and s sqrt(dt) is clipped at 0.45."""
    policy, kl = loss_weights(jnp.float32([0.5, 0.9, 1.0]), jnp.float32([0.04, 0.05, 0.01]))
    np.testing.assert_allclose(policy, [1 / 0.2, 0.45 / 0.05, 0.45 / 0.01], rtol=1e-5)
    np.testing.assert_allclose(kl, np.square(policy), rtol=1e-6)
    kappa = np.sqrt(DT * (1 - T) / T)[1:]
    policy, kl = loss_weights(T[1:], DT[1:], tau=1e3)
    np.testing.assert_allclose(policy, 1 / kappa, rtol=2e-4)
    np.testing.assert_allclose(kl, 1 / kappa**2, rtol=4e-4)


def gradient_norms(tau, steps, weigh):
    """Of the log-probability's gradient with respect to the velocity, over the noise's norm, at steps of the report."""
    x, v, noise = (jax.random.normal(jax.random.key(i), (len(steps), 500)) for i in range(3))
    t, dt = T[steps], DT[steps]
    after, old, _ = sde_step(x, v, t, dt, noise, tau=tau)
    policy = loss_weights(t, dt, tau=tau)[0] if weigh else 1.0

    def value(v):
        mean, std = sde_mean(x, v, t, dt, tau=tau)
        return (policy * log_ratio(after, mean, old, std) * x.shape[1]).sum()

    norms = jnp.linalg.norm(jax.grad(value)(v), axis=1) / jnp.linalg.norm(noise, axis=1)
    return np.asarray(norms)


def test_the_reweighted_gradient_is_of_one_size():
    """1 + s^2 (1 - t) / (2 t) times the noise: at every candidate step of the report's schedule and behind them, with
    s clipped and not."""
    clipped = gradient_norms(0.45, np.arange(16), weigh=True)
    s = np.asarray(sde_sigma(T, DT))
    np.testing.assert_allclose(clipped, 1 + s**2 * (1 - T) / (2 * T), rtol=0.05)
    assert clipped[0] == pytest.approx(1, rel=0.01)
    assert clipped[5] == pytest.approx(4 / 3, rel=0.01)
    free = gradient_norms(1e3, np.arange(1, 16), weigh=True)
    np.testing.assert_allclose(free, 1.5, rtol=0.05)


def test_the_plain_gradient_is_not():
    plain = gradient_norms(0.45, np.arange(16), weigh=False)
    assert plain[:6].max() / plain[:6].min() == pytest.approx(2.9, rel=0.05)
    assert plain.max() / plain.min() > 100
    assert plain[0] < 0.02


def test_ratio_and_divergence_are_those_of_gaussians():
    rng = np.random.default_rng(0)
    mean, old = rng.normal(size=(2, 3, 4000)).astype(np.float32)
    old = mean + 0.3 * (old - mean)
    std = np.float32([[0.45], [0.3], [0.7]])
    after = mean + std * rng.normal(size=mean.shape).astype(np.float32)

    def log_density(x, mean):
        return -(np.square((x - mean) / std) / 2 + np.log(std) + np.log(2 * np.pi) / 2)

    want = (log_density(after, mean) - log_density(after, old)).mean(axis=1)
    np.testing.assert_allclose(log_ratio(after, mean, old, std), want, rtol=1e-4)
    np.testing.assert_array_equal(log_ratio(after, mean, mean, std), 0)
    kl = gaussian_kl(mean, old, std)
    np.testing.assert_allclose(kl, (np.square(mean - old) / (2 * std**2)).mean(axis=1), rtol=1e-5)
    # The divergence is what the log-ratio is on the average, over what the policy draws.
    np.testing.assert_allclose(log_ratio(after, mean, old, std), kl, rtol=0.1)


class Linear(linear_model.Linear):
    """In the place of the DiT."""

    def apply(self, *args, num_cond=0, cache=None):
        assert cache is None
        return super().apply(*args, num_cond=num_cond)


B, GUIDANCE = 4, 4.0
W, UP = 0.5, 0.25
SETTINGS = GRPO(beta=0.1)
POLICY = SETTINGS.of(Linear(), GUIDANCE)


def trees(up=UP) -> Trees:
    states = np.float32([[[1.0, -2.0], [0.5, 3.0], [0, 0]]])
    prompts = {NEGATIVE: TextStates(states, np.array([[True, True, False]]))}
    return Trees(params={"w": jnp.float32(W)}, lora=linear_model.adapter(up), prompts=prompts)


def guided(x, up, text):
    """In double precision, one pass after the other."""
    cond, uncond = x * (W + up) + linear_model.text_mean(text), x * (W + up) + linear_model.text_mean(NEGATIVES)
    axes = (1, 2, 3, 4)
    s = (cond * uncond).sum(axes, keepdims=True) / (np.square(uncond).sum(axes, keepdims=True) + 1e-8)
    return s * uncond + GUIDANCE * (cond - s * uncond)


NEGATIVES = jax.tree.map(lambda x: np.repeat(x, B, axis=0), trees().prompts[NEGATIVE])


def mean_by_hand(x, up, text, t, dt):
    s = np.minimum(np.sqrt(t / np.maximum(1 - t, 1e-12)), 0.45 / np.sqrt(dt))
    v = guided(x, up, text)
    t, dt, s = (value.reshape(-1, 1, 1, 1, 1) for value in (t, dt, s))
    return x + dt * (v - s**2 / (2 * t) * (x - (1 - t) * v)), s * np.sqrt(dt)


def judged(up=UP, advantage=(1.0, -1.0, 0.5, 0.0)) -> Judged:
    """Drawn by the policy whose adapter is `up`, at the first steps of the report's schedule."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, B, 3, 1, 2, linear_model.WIDTH))
    text, t, dt = linear_model.batch().text, np.float64(T[:B]), np.float64(DT[:B])
    mean, std = mean_by_hand(x, up, text, t, dt)
    step = Transition(*(np.float32(each) for each in (x, mean + std * noise, mean, t, dt)))
    return Judged(step, np.float32(advantage), np.ones(B, np.float32), text)


def by_hand(batch: Judged, up):
    """Loss of each video, ratio and divergence of a policy with the adapter `up`, in double precision."""
    step = jax.tree.map(np.float64, batch.transition)
    mean, std = mean_by_hand(step.before, up, batch.text, step.t, step.dt)
    reference, _ = mean_by_hand(step.before, 0.0, batch.text, step.t, step.dt)
    axes = (1, 2, 3, 4)
    log = (np.square((step.after - step.mean) / std) - np.square((step.after - mean) / std)).mean(axes) / 2
    kl = (np.square(mean - reference) / (2 * std**2)).mean(axes)
    s = std.reshape(-1) / np.sqrt(step.dt)
    loss = -s / np.sqrt(step.dt) * np.exp(log) * batch.advantage + SETTINGS.beta * s**2 / step.dt * kl
    return loss, np.exp(log), kl


def gradient(objective, up, batch):
    value = jax.value_and_grad(lambda t: objective(t, batch, None), has_aux=True, allow_int=True)
    (loss, metrics), grads = value(trees(up))
    return float(loss), metrics, float(grads.lora["trained"]["layer"]["up"])


@pytest.mark.smoke
@pytest.mark.parametrize("up", [UP, 0.6])
def test_loss_and_gradient_by_hand(up):
    """Of the policy that drew, and of one that has moved since. The gradient goes through both passes of the guidance,
    the second of which has no prompt, but not to the reference."""
    batch = judged()
    loss, metrics, slope = gradient(POLICY, up, batch)
    want, ratio, kl = by_hand(batch, up)
    assert loss == pytest.approx(want.mean(), rel=1e-4)
    assert float(metrics["loss"].value) == pytest.approx(loss, rel=1e-6)
    assert float(metrics["kl"].value) == pytest.approx(kl.mean(), rel=1e-4)
    assert float(metrics["ratio"].value) == pytest.approx(ratio.mean(), rel=1e-5)
    assert (abs(ratio - 1) < 1e-6).all() == (up == UP)
    difference = (by_hand(batch, up + 1e-4)[0].mean() - by_hand(batch, up - 1e-4)[0].mean()) / 2e-4
    assert slope == pytest.approx(difference, rel=1e-3)


def test_a_new_adapter_has_no_divergence():
    """It changes nothing, so the reference is the policy; and where the policy did not move, the log-ratio is 0."""
    batch = judged(up=0.0)
    _, metrics, _ = gradient(POLICY, 0.0, batch)
    assert float(metrics["kl"].value) == 0
    mean, std = POLICY.mean(trees(0.0), batch)
    np.testing.assert_array_equal(log_ratio(batch.transition.after, mean, mean, std), 0)
    np.testing.assert_allclose(log_ratio(batch.transition.after, mean, batch.transition.mean, std), 0, atol=1e-6)


def test_videos_that_are_left_out_change_nothing():
    """Whatever is in them; the others' weights make up for them."""
    batch = judged()
    half = dataclasses.replace(batch, weight=np.float32([2, 2, 0, 0]))
    loss, metrics, slope = gradient(POLICY, 0.4, half)
    want, ratio, _ = by_hand(batch, 0.4)
    assert loss == pytest.approx(want[:2].mean(), rel=1e-4)
    assert float(metrics["ratio"].value) == pytest.approx(ratio[:2].mean(), rel=1e-5)
    assert float(metrics["kl"].count) == 2
    other = jax.tree.map(lambda x: np.concatenate([x[:2], 3 * x[2:]]), batch.transition.after)
    moved = dataclasses.replace(half, transition=dataclasses.replace(batch.transition, after=other))
    assert gradient(POLICY, 0.4, moved)[2] == slope


def test_a_clipped_ratio_gains_nothing_more():
    """Of videos that the policy has moved to or from, better and worse than their group."""
    batch = judged(advantage=(1, -1, -1, 1))
    plain = GRPO(beta=0, weighting=Weighting.NONE)
    _, ratio, _ = by_hand(batch, 0.7)
    assert ratio.min() < 0.999
    assert ratio.max() > 1.001
    loss, metrics, _ = gradient(plain.of(Linear(), GUIDANCE), 0.7, batch)
    assert loss == pytest.approx(-(ratio * batch.advantage).mean(), rel=1e-4)
    assert not {"kl", "clipped"} & metrics.keys()
    bound = 0.5 * abs(ratio - 1).min() + 0.5 * np.sort(abs(ratio - 1))[1]
    loss, metrics, _ = gradient(dataclasses.replace(plain, clip=bound).of(Linear(), GUIDANCE), 0.7, batch)
    gain, held = ratio * batch.advantage, np.clip(ratio, 1 - bound, 1 + bound) * batch.advantage
    assert loss == pytest.approx(-np.minimum(gain, held).mean(), rel=1e-4)
    assert float(metrics["clipped"].value) == (held < gain).mean()
    assert 0 < (held < gain).mean() < 1


def test_without_guidance_there_is_one_pass():
    batch = judged()
    mean, _ = SETTINGS.of(Linear(), 1.0).mean(dataclasses.replace(trees(), prompts={}), batch)
    step = jax.tree.map(np.float64, batch.transition)
    v = step.before * (W + UP) + linear_model.text_mean(batch.text)
    want, _ = sde_mean(batch.transition.before, np.float32(v), batch.transition.t, batch.transition.dt)
    np.testing.assert_allclose(mean, want, atol=1e-5)


def test_guidance_needs_the_negative_prompt():
    with pytest.raises(InputError, match="there is no encoded prompt 'negative'"):
        POLICY(dataclasses.replace(trees(), prompts={}), judged(), None)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"beta": -1}, "GRPO, beta=-1: expected a number from 0"),
        ({"clip": 0}, "GRPO, clip=0: expected a number above 0 and below 1, or None"),
        ({"weighting": "some"}, "GRPO, weighting='some': expected noise or none"),
        ({"scale": "some"}, "GRPO, scale='some': expected largest or own"),
    ],
)
def test_bad_settings_raise(change, match):
    with pytest.raises(InputError, match=match):
        GRPO(**change)
    assert GRPO().exploration == Exploration(steps=6, a=1.0, tau=0.45)
