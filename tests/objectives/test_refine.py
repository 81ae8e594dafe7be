"""The refinement objective: its path by hand, its levels, and that from pure noise it is pretraining."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import training
from lcv_jax.data.loader import Reads
from lcv_jax.errors import InputError
from lcv_jax.flow.noise_levels import token_shift
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.pretrain import Pretrain, Pretraining
from lcv_jax.objectives.refine import Refine, Refinement
from lcv_jax.train.step import sample_keys

KEYS = sample_keys(jax.random.key(7), 4)
PLAIN = Refinement(text_dropout=0)


def pairs(num_cond=1, **options):
    batch = training.batch(num_cond=num_cond, **options)
    upsampled = np.random.default_rng(9).normal(size=batch.latents.shape).astype(np.float32)
    return dataclasses.replace(batch, upsampled=upsampled)


@pytest.fixture(scope="module")
def params():
    return training.awake(training.init(training.dit()))


@pytest.mark.smoke
def test_path_and_target_by_hand():
    batch, objective = pairs(), Refine(training.dit(), Refinement(t_thresh=0.4))
    draw = objective.draw(batch, KEYS)
    x, target = objective.path(batch, draw)
    t = np.asarray(draw.t, np.float64)[:, :, None, None, None]
    start = 0.6 * batch.upsampled + 0.4 * np.asarray(draw.noise, np.float64)
    np.testing.assert_allclose(x, batch.latents + (start - batch.latents) * t / 0.4, atol=1e-5)
    np.testing.assert_allclose(target, (batch.latents - start) / 0.4, atol=1e-5)
    np.testing.assert_array_equal(x[:, :1], batch.latents[:, :1])  # the condition is clean


def test_levels_are_the_samplers_below_the_threshold():
    """Told as they are, at 0 for condition frames, and all of the same weight."""
    many = sample_keys(jax.random.key(0), 2000)
    draw = Refine(training.dit(), PLAIN).draw(pairs(size=2000), many)
    assert (draw.t[:, 0] == 0).all()
    np.testing.assert_array_equal(draw.told, draw.t)
    np.testing.assert_array_equal(draw.t[:, 1], draw.t[:, 2])
    np.testing.assert_array_equal(draw.weight, 1)
    t = np.asarray(draw.t[:, 1], np.float64)
    assert 0 <= t.min() < 0.02
    assert 0.49 < t.max() <= 0.5
    u = t / (12 - 11 * t)  # before the shift
    np.testing.assert_allclose(np.histogram(u, 5, (0, 1 / 13))[0], 400, atol=80)


@pytest.mark.smoke
def test_from_pure_noise_it_is_pretraining(params):
    """The same draws give the same loss and gradients, and with pretraining's shift the draws are the same but for the
    weights."""
    batch = pairs()
    plain = Pretrain(training.dit(), Pretraining(text_dropout=0))
    shift = token_shift(2 * 2 * 2)
    refine = Refine(training.dit(), Refinement(text_dropout=0, t_thresh=1.0, shift=shift))
    draw = plain.draw(batch, KEYS)
    ours = dataclasses.replace(refine.draw(batch, KEYS), weight=draw.weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, draw)

    def gradient(objective):
        loss = lambda params: objective.evaluate(Trees(params), batch, draw)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(params)

    for one, two in zip(jax.tree.leaves(gradient(plain)), jax.tree.leaves(gradient(refine)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def test_the_condition_is_outside_the_loss(params):
    """Neither its noise nor what it would be upsampled from matters; of the other frames both do."""
    objective, batch = Refine(training.dit(), PLAIN), pairs()
    draw = objective.draw(batch, KEYS)
    loss = jax.jit(lambda batch, draw: objective.evaluate(Trees(params), batch, draw)[0])
    base = float(loss(batch, draw))
    for frame, same in ((0, True), (1, False)):
        for change in ("upsampled", "noise"):
            if change == "upsampled":
                other = loss(
                    dataclasses.replace(batch, upsampled=batch.upsampled + (np.arange(3) == frame).reshape(3, 1, 1, 1)),
                    draw,
                )
            else:
                noise = draw.noise.at[:, frame].add(1)
                other = loss(batch, dataclasses.replace(draw, noise=noise))
            assert (float(other) == pytest.approx(base, rel=1e-6)) == same


def test_what_it_reads_is_told():
    assert Refinement().records is Reads.PAIRS
    assert Pretraining().records is Reads.LATENTS
    assert (Refinement().prompts, PLAIN.prompts) == ({"empty": ""}, {})
    assert Refinement(shift=3.0).schedule == ScheduleConfig(3.0)
    assert isinstance(Refinement().of(training.dit()), Refine)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"t_thresh": 0}, "refinement, t_thresh=0: expected a number above 0 and at most 1"),
        ({"t_thresh": 1.5}, r"refinement, t_thresh=1\.5"),
        ({"shift": 0.0}, r"refinement: shift=0\.0: expected a positive"),
        ({"text_dropout": -0.1}, r"objective, text_dropout=-0\.1"),
    ],
)
def test_bad_settings_are_refused(given, match):
    with pytest.raises(InputError, match=match):
        Refinement(**given)


def test_clips_without_pairs_are_refused():
    objective, batch = Refine(training.dit(), PLAIN), training.batch()
    with pytest.raises(InputError, match="the batch has no upsampled latents to start from: give pairs"):
        objective.path(batch, objective.draw(batch, KEYS))
    assert jnp.isfinite(objective.draw(batch, KEYS).t).all()
