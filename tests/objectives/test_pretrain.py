"""The pretraining objective: its randomness by hand, its loss and gradients against the official numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import training
from dit_goldens import channels_last, inputs, official, part, read_config, read_params
from lcv_jax.checkpoint.load import flatten
from lcv_jax.errors import InputError
from lcv_jax.flow.noise_levels import level, loss_weight
from lcv_jax.flow.path import noised
from lcv_jax.models.dit import DiT
from lcv_jax.models.lora import LoRAConfig, init_lora
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Average, Trees
from lcv_jax.objectives.pretrain import Batch, ConditionNoise, Draw, Pretrain, Pretraining, Told
from lcv_jax.train.step import sample_keys

KEYS = sample_keys(jax.random.key(5), 4)


@pytest.fixture(scope="module")
def params():
    return training.awake(training.init(training.dit()))


@pytest.mark.smoke
def test_loss_and_gradients_are_the_official_ones(goldens, checkpoint_dir):
    """The golden target is a velocity; x0 and noise are worked out from it, and the official loss has no weights."""
    config = read_config(checkpoint_dir)
    golden = goldens("dit_grad")
    g = part(golden, "full_")
    x, t, text, mask = inputs(g)
    target, at = channels_last(g["target"]), t[:, :, None, None, None]
    x0, noise = x + at * target, x - (1 - at) * target
    batch = Batch(jnp.asarray(x0), TextStates(text, mask))
    draw = Draw(jnp.asarray(noise), jnp.asarray(t), jnp.asarray(t), jnp.ones(len(x)), jnp.zeros(len(x), bool))
    objective = Pretrain(DiT(config, FLOAT32), Pretraining(text_dropout=0))

    @jax.jit
    def gradient(params):
        loss = lambda params: objective.evaluate(Trees(params), batch, draw)  # noqa: E731
        return jax.value_and_grad(loss, has_aux=True)(params)

    (loss, metrics), grads = gradient(read_params(checkpoint_dir, config))
    assert float(loss) == pytest.approx(float(g["loss"]), abs=1e-5)
    assert float(metrics["error"].value) == pytest.approx(float(g["loss"]), abs=1e-5)
    named = official(grads)
    for name, norm in zip(golden["grad_norm_names"], g["grad_norms"], strict=True):
        assert np.linalg.norm(named[str(name)]) == pytest.approx(float(norm), rel=1e-4), name


def test_a_sample_is_drawn_alike_in_any_batch():
    objective = Pretrain(training.dit(), Pretraining(condition_noise=ConditionNoise(0.5)))
    whole = objective.draw(training.batch(size=4, num_cond=2), KEYS)
    one = objective.draw(training.batch(size=1, num_cond=2), KEYS[2:3])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[2:3], b), whole, one)
    assert len(set(np.asarray(whole.weight))) == 4


def test_levels_and_weights_are_those_of_the_tokens():
    """3 frames of 2 x 2 tokens, one of them a condition: 8 noisy tokens shift by sqrt(8 / 256)."""
    keys = sample_keys(jax.random.key(0), 2000)
    draw = Pretrain(training.dit()).draw(training.batch(size=2000, num_cond=1), keys)
    assert (draw.t[:, 0] == 0).all()
    np.testing.assert_array_equal(draw.t[:, 1], draw.t[:, 2])
    s = np.sqrt(8 / 256)
    t = np.asarray(draw.t[:, 1], np.float64)
    u = t / (s + (1 - s) * t)  # the inverse of the shift
    np.testing.assert_allclose(np.histogram(u, 5, (0, 1))[0], 400, atol=80)
    np.testing.assert_allclose(draw.weight, loss_weight(jnp.asarray(u)), rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(level(jnp.asarray(u), s), t, rtol=1e-4)
    assert float(draw.drop_text.mean()) == pytest.approx(0.1, abs=0.03)
    assert float(draw.noise.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("noise", "num_cond", "share"),
    [
        (ConditionNoise(), 2, 0),
        (ConditionNoise(1.0, 0.2), 2, 1),
        (ConditionNoise(0.25, 0.2), 2, 0.25),
        (ConditionNoise(1.0, 0.2, Told.ZERO), 2, 1),
        (ConditionNoise(1.0, 0.2), 1, 0),
    ],
)
def test_condition_frames_get_small_noise_each_by_itself(noise, num_cond, share):
    batch = training.batch(size=500, num_cond=num_cond)
    objective = Pretrain(training.dit(), Pretraining(condition_noise=noise))
    draw = objective.draw(batch, sample_keys(jax.random.key(1), 500))
    cond, told = draw.t[:, :num_cond], draw.told[:, :num_cond]
    assert float((cond > 0).mean()) == pytest.approx(share, abs=0.05)
    assert float(cond.max()) <= 0.2
    np.testing.assert_array_equal(told, 0 * cond if noise.told == Told.ZERO else cond)
    np.testing.assert_array_equal(draw.told[:, num_cond:], draw.t[:, num_cond:])
    if share == 1:
        assert (cond[:, 0] != cond[:, 1]).all()
    if share == 0:
        mixed = noised(batch.latents, draw.noise, draw.t[:, :, None, None, None])
        np.testing.assert_array_equal(mixed[:, :num_cond], batch.latents[:, :num_cond])


def test_a_noisy_condition_frame_is_still_a_condition(params):
    """Its level is heard; it sees neither the text nor the noisy frames, and the noisy frames see it."""
    model = training.dit()
    rng = np.random.default_rng(2)
    x, text = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 3, 4, 4, 16), (1, 3, 8)))
    run = jax.jit(lambda x, t, text: model.apply({"params": params}, x, t, text, num_cond=2))
    t = np.float32([[0.05, 0.08, 0.7]])
    base = run(x, t, text)
    later = x.copy()
    later[:, 2] += 1
    np.testing.assert_allclose(run(later, t, text + 1)[:, :2], base[:, :2], atol=1e-6)
    changed = np.abs(np.asarray(run(x, np.float32([[0.05, 0, 0.7]]), text) - base)).max((0, 2, 3, 4))
    assert (changed > 1e-5).all()  # frame 0 too, because condition frames see one another


OBJECTIVE = Pretrain(training.dit(), Pretraining(text_dropout=0.5, bins=4))
evaluate = jax.jit(OBJECTIVE.evaluate)


def losses(params, batch, **change):
    draw = dataclasses.replace(OBJECTIVE.draw(batch, KEYS), **change)
    loss, metrics = evaluate(training.given(params=params), batch, draw)
    return float(loss), metrics


def test_dropped_text_is_the_empty_prompt(params):
    batch = training.batch()
    empty = training.empty_prompt()
    padded = TextStates(
        np.pad(empty.states, ((0, 0), (0, 2), (0, 0))).repeat(4, 0), np.pad(empty.mask, ((0, 0), (0, 2))).repeat(4, 0)
    )
    yes, no = jnp.ones(4, bool), jnp.zeros(4, bool)
    dropped, _ = losses(params, batch, drop_text=yes)
    kept, _ = losses(params, batch, drop_text=no)
    with_empty, _ = losses(params, dataclasses.replace(batch, text=padded), drop_text=no)
    assert dropped == with_empty
    assert dropped != kept


def test_an_adapter_is_trained_through_the_frozen_model(params):
    """A new one changes no number, and what it multiplies has a gradient."""
    batch = training.batch()
    plain, _ = losses(params, batch)
    adapter = init_lora(LoRAConfig(rank=2, alpha=1), params, jax.random.key(1))
    draw = OBJECTIVE.draw(batch, KEYS)
    loss = lambda a: OBJECTIVE.evaluate(training.given(params=params, lora={"new": a}), batch, draw)[0]  # noqa: E731
    value, grads = jax.jit(jax.value_and_grad(loss))(adapter)
    assert float(value) == pytest.approx(plain, rel=1e-6)
    by_name = flatten(grads)
    assert all(np.abs(x).max() > 0 for name, x in by_name.items() if name.endswith("up"))
    assert all(np.abs(x).max() == 0 for name, x in by_name.items() if not name.endswith("up"))


def test_metrics_add_up(params):
    draw = OBJECTIVE.draw(training.batch(), KEYS)
    loss, metrics = losses(params, training.batch())
    assert float(metrics["loss"].value) == pytest.approx(loss)
    by_level = metrics["error by level"]
    assert float(by_level.total.sum()) == pytest.approx(float(metrics["error"].total), rel=1e-6)
    np.testing.assert_array_equal(by_level.count, np.histogram(draw.t[:, -1], 4, (0, 1))[0])
    twice = metrics["error"] + Average.of(jnp.zeros(4))
    assert float(twice.value) == pytest.approx(float(metrics["error"].value) / 2)


@pytest.mark.smoke
def test_an_untrained_model_says_zero():
    """AdaLN-Zero: then the error is the velocity's own mean square, which is 2 for data and noise of variance 1."""
    model = training.dit()
    params = training.init(model)
    rng = np.random.default_rng(0)
    v = model.apply({"params": params}, rng.normal(size=(1, 2, 4, 4, 16)), np.ones((1, 2)), rng.normal(size=(1, 3, 8)))
    np.testing.assert_array_equal(v, 0)
    batch = training.batch()
    draw = OBJECTIVE.draw(batch, KEYS)
    _, metrics = losses(params, batch)
    expected = np.square(batch.latents - draw.noise).mean()
    assert float(metrics["error"].value) == pytest.approx(float(expected), rel=1e-5)


def test_bfloat16_computes_from_float32_masters(params):
    """Gradients come back in float32, close to the exact ones."""
    batch = training.batch()
    grads = {}
    for name, precision in (("exact", FLOAT32), ("low", dataclasses.replace(BFLOAT16, param=FLOAT32.param))):
        objective = Pretrain(training.dit(precision=precision))
        loss = lambda p, objective=objective: objective(training.given(params=p), batch, KEYS)[0]  # noqa: E731
        grads[name] = jax.jit(jax.grad(loss))(params)
    flat = {name: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)]) for name, tree in grads.items()}
    assert {x.dtype for x in jax.tree.leaves(grads["low"])} == {jnp.dtype("float32")}
    difference = jnp.linalg.norm(flat["low"] - flat["exact"]) / jnp.linalg.norm(flat["exact"])
    assert 0 < float(difference) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_dropout": 1.5}, r"text_dropout=1\.5"),
        ({"bins": 0}, r"bins=0"),
    ],
)
def test_bad_objectives_raise(change, message):
    with pytest.raises(InputError, match=message):
        Pretrain(training.dit(), Pretraining(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probability": -0.1}, r"probability=-0\.1"),
        ({"level": 0}, r"level=0"),
        ({"level": 1.0}, r"level=1\.0"),
        ({"told": "no"}, "expected level or zero"),
    ],
)
def test_bad_condition_noise_raises(change, message):
    with pytest.raises(InputError, match=message):
        ConditionNoise(**change)


def test_a_missing_or_foreign_empty_prompt_raises(params):
    objective, batch = Pretrain(training.dit()), training.batch()
    with pytest.raises(InputError, match="there is no encoded prompt 'empty'"):
        objective(Trees(params), batch, KEYS)
    for rows, tokens, width in ((2, 1, 8), (1, 4, 8), (1, 1, 7)):
        prompt = TextStates(np.zeros((rows, tokens, width)), np.ones((rows, tokens), bool))
        with pytest.raises(InputError, match="one row of at most 3 tokens of 8"):
            objective(Trees(params, prompts={"empty": prompt}), batch, KEYS)
