"""The step, on a linear regression whose numbers can be had by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcv_jax.errors import InputError
from lcv_jax.objectives.objective import Average, Trees
from lcv_jax.train.state import create
from lcv_jax.train.step import batch_size, jitted, make_step, sample_keys

SGD = optax.sgd(0.1)
W = jnp.float32([1.0, -2.0, 0.5])


def regression(trees, batch, keys):
    """(x . (w + lora) - noise)^2, with noise that a sample's key gives."""
    w = trees.params["w"] + (0 if trees.lora is None else trees.lora["w"])
    target = jax.vmap(jax.random.normal)(keys)
    error = jnp.square(batch["x"] @ w - target)
    return error.mean(), {"loss": Average.of(error)}


def rows(count):
    return {"x": np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)}


def fresh(optimizer=SGD, **kwargs):
    return create({"w": W}, optimizer, jax.random.key(1), **kwargs)


@pytest.mark.smoke
def test_a_step_by_hand():
    batch = rows(4)
    keys = sample_keys(jax.random.fold_in(jax.random.key(1), 0), 4)
    residual = batch["x"] @ np.asarray(W) - np.asarray(jax.vmap(jax.random.normal)(keys))
    gradient = 2 * batch["x"].T @ residual / 4
    state, metrics = jitted(make_step(regression, SGD))(fresh(ema=True), batch)
    new = np.asarray(W) - 0.1 * gradient
    np.testing.assert_allclose(state.trained["w"], new, rtol=1e-5)
    np.testing.assert_allclose(state.ema["w"], 0.1 * np.asarray(W) + 0.9 * new, rtol=1e-5)
    assert int(state.step) == 1
    assert float(metrics["loss"].value) == pytest.approx(np.square(residual).mean(), rel=1e-5)
    assert float(metrics["grad_norm"].value) == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert float(metrics["finite"].value) == 1


@pytest.mark.parametrize("count", [2, 4])
def test_micro_batches_give_the_whole_batch(count):
    whole, one = jitted(make_step(regression, SGD))(fresh(), rows(8))
    parts, many = jitted(make_step(regression, SGD, accumulate=count))(fresh(), rows(8))
    np.testing.assert_allclose(parts.trained["w"], whole.trained["w"], rtol=1e-6)
    for name in one:
        assert float(many[name].value) == pytest.approx(float(one[name].value), rel=1e-6)
    assert float(many["loss"].count) == 8


def test_steps_differ_in_their_noise_and_repeat_from_the_same_key():
    step = jitted(make_step(regression, optax.sgd(0.0)))
    state, first = step(fresh(), rows(4))
    _, second = step(state, rows(4))
    _, again = step(fresh(), rows(4))
    assert float(first["loss"].value) != float(second["loss"].value)
    assert float(first["loss"].value) == float(again["loss"].value)


def test_the_mean_settles_to_its_decay():
    step = jitted(make_step(regression, SGD, ema_decay=0.5))
    state = dataclasses.replace(fresh(ema=True), step=jnp.int32(1000))
    after, _ = step(state, rows(4))
    np.testing.assert_allclose(after.ema["w"], (W + after.trained["w"]) / 2, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(bad):
    adam = optax.adam(0.1)
    step = jitted(make_step(regression, adam))
    state, _ = step(fresh(adam, ema=True), rows(4))
    before = jax.tree.map(np.array, dataclasses.replace(state, key=jax.random.key_data(state.key)))
    batch = rows(4)
    batch["x"][2, 1] = bad
    state, metrics = step(state, batch)
    assert float(metrics["finite"].value) == 0
    after = dataclasses.replace(state, key=jax.random.key_data(state.key))
    assert int(after.step) == int(before.step) + 1
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(after, step=before.step), before)


def test_an_objective_reads_the_mean_as_it_was_before_the_step():
    """And nothing else in its place: without a mean there is none."""

    def distance(trees, batch, keys):
        far = jnp.float32(-1) if trees.ema is None else jnp.square(trees.ema["w"] - trees.params["w"]).sum()
        return regression(trees, batch, keys)[0], {"distance": Average.of(far)}

    step = jitted(make_step(distance, SGD, ema_decay=0.5))
    state, metrics = step(fresh(ema=True), rows(4))
    assert float(metrics["distance"].value) == 0
    before = np.square(np.asarray(state.ema["w"]) - np.asarray(state.trained["w"])).sum()
    assert before > 0
    _, metrics = step(state, rows(4))
    assert float(metrics["distance"].value) == pytest.approx(before, rel=1e-5)
    _, metrics = step(fresh(), rows(4), Trees(ema={"w": W}))
    assert float(metrics["distance"].value) == -1


def test_only_the_lora_is_trained():
    """The base is an argument: it has no gradient, no moments, and is not donated."""
    adam = optax.adam(0.1)
    base = {"w": W}
    step = jitted(make_step(regression, adam, trained="lora"))
    state = create({"w": jnp.zeros(3)}, adam, jax.random.key(1))
    elements = sum(x.size for x in jax.tree.leaves(state.optimizer))
    assert elements == 2 * 3 + 1
    state, _ = step(state, rows(4), Trees(params=base))
    np.testing.assert_array_equal(base["w"], [1.0, -2.0, 0.5])
    assert (np.abs(state.trained["w"]) > 0.05).all()


def test_masters_are_float32_copies():
    w = jnp.ones(3, jnp.bfloat16)
    state = create({"w": w}, SGD, jax.random.key(0), ema=True)
    assert state.trained["w"].dtype == state.ema["w"].dtype == jnp.float32
    step = jitted(make_step(regression, SGD))
    kept = {"w": jnp.ones(3)}
    step(create(kept, SGD, jax.random.key(0)), rows(2))
    np.testing.assert_array_equal(kept["w"], 1)


def test_a_key_does_not_depend_on_the_number_of_samples():
    few, many = (jax.random.key_data(sample_keys(jax.random.key(0), n)) for n in (2, 5))
    np.testing.assert_array_equal(few, many[:2])
    assert len(np.unique(many, axis=0)) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trained": "ema"}, "trained='ema': expected one of params, lora"),
        ({"accumulate": 0}, "accumulate=0"),
        ({"ema_decay": 1}, "ema_decay=1"),
    ],
)
def test_bad_steps_raise(change, message):
    with pytest.raises(InputError, match=message):
        make_step(regression, SGD, **change)


def test_bad_batches_raise():
    with pytest.raises(InputError, match=r"first axes \['2', '3'\]"):
        batch_size({"a": np.zeros((2, 1)), "b": np.zeros(3)})
    with pytest.raises(InputError, match=r"first axes \['None'\]"):
        batch_size({"a": np.zeros(())})
    with pytest.raises(InputError, match="a batch of 3 does not divide into 2 micro-batches"):
        make_step(regression, SGD, accumulate=2)(fresh(), rows(3))
