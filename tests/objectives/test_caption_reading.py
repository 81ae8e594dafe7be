"""Reading captions: the reader and the loss by hand, and a tiny encoder that learns to be read."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lcv_jax.data import toy
from lcv_jax.data.toy.caption_batches import Captions
from lcv_jax.data.toy.labels import KINDS, labels
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.objectives.caption_reading import CaptionReading, init_reader, read
from lcv_jax.objectives.objective import Trees

CONFIG = UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
UNREAD = 8 * math.log(7) + 8 * math.log(9) + math.log(6) + math.log(5)
"""The loss of a reader that knows nothing: 8 colours of 7 shape and 9 motion classes, 6 tones, 5 patterns."""


@pytest.fixture(scope="module")
def objective():
    return CaptionReading(UMT5Encoder(CONFIG, FLOAT32))


@pytest.fixture(scope="module")
def params(objective):
    ids, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    encoder = jax.jit(objective.model.init)(jax.random.key(0), ids, mask)["params"]
    return {"encoder": encoder, "reader": init_reader(CONFIG, jax.random.key(1))}


@pytest.fixture(scope="module")
def evaluate(objective):
    return jax.jit(lambda params, batch: objective(Trees(params), batch, None))


def batch_of(facts, length=6):
    """Facts with random tokens, as different as the facts."""
    rng = np.random.default_rng(0)
    ids = rng.integers(3, CONFIG.vocab_size, (len(facts), length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(2, length + 1, len(facts))[:, None]
    return Captions(ids, mask, labels(facts))


def test_a_reader_has_a_query_for_each_colour_and_the_ground():
    shapes = jax.tree.map(jnp.shape, init_reader(CONFIG, jax.random.key(0)))
    assert shapes == {
        "queries": (9, 16),
        "shape": {"kernel": (16, 7), "bias": (7,)},
        "motion": {"kernel": (16, 9), "bias": (9,)},
        "tone": {"kernel": (16, 6), "bias": (6,)},
        "pattern": {"kernel": (16, 5), "bias": (5,)},
    }


@pytest.mark.smoke
def test_reading_by_hand():
    """Two valid tokens, (4, 0) and (0, 4), and a padded one. Red asks for the first channel with log(3) / 4 * sqrt(2),
    so that the first token weighs 3 times the second; all others ask for nothing and get the mean."""
    states = np.float32([[[4, 0], [0, 4], [9, 9]]])
    queries = np.zeros((9, 2), np.float32)
    queries[0, 0] = math.log(3) / 4 * 2**0.5
    rng = np.random.default_rng(0)
    linear = {
        kind: {"kernel": rng.normal(size=(2, len(classes))), "bias": rng.normal(size=len(classes))}
        for kind, classes in KINDS.items()
    }
    reader = jax.tree.map(jnp.float32, {"queries": queries, **linear})
    logits = read(reader, jnp.asarray(states), jnp.array([[True, True, False]]))
    pooled = np.array([[3, 1], *[[2, 2]] * 8])
    for kind, (rows, places) in {
        "shape": (slice(0, 8), 8),
        "motion": (slice(0, 8), 8),
        "tone": (slice(8, 9), 1),
        "pattern": (slice(8, 9), 1),
    }.items():
        assert logits[kind].shape == (1, places, len(KINDS[kind]))
        expected = pooled[rows] @ linear[kind]["kernel"] + linear[kind]["bias"]
        np.testing.assert_allclose(logits[kind][0], expected, atol=1e-5)


def test_loss_and_shares_by_hand(params, evaluate):
    """A reader of zeros gives every class the same probability, and names the first: nothing is told."""
    blank = params | {"reader": jax.tree.map(jnp.zeros_like, params["reader"])}
    red = toy.Facts((toy.Object("red", "star"),))
    captions = [red, toy.Facts(red.objects, toy.Ground("navy")), red, red]
    loss, metrics = evaluate(blank, batch_of(captions))
    assert float(loss) == pytest.approx(UNREAD, rel=1e-5)
    assert float(metrics["loss"].value) == pytest.approx(UNREAD, rel=1e-5)
    assert float(metrics["read"].value) == 0
    np.testing.assert_array_equal(metrics["read by kind"].value, [0, 1, 0.75, 0.75])
    blank["reader"]["shape"] = blank["reader"]["shape"] | {"bias": jnp.eye(7)[toy.SHAPES.index("star") + 1]}
    batch = batch_of(captions)
    batch.labels["shape"][:3] = toy.SHAPES.index("star") + 1  # as no caption has it: every colour is a star
    _, metrics = evaluate(blank, batch)
    assert float(metrics["read"].value) == 0.5
    np.testing.assert_array_equal(metrics["read by kind"].value, [0.75, 1, 0.75, 0.75])


def test_padding_and_company_change_nothing(params, evaluate):
    batch = batch_of([toy.sample(seed) for seed in range(4)])
    other = Captions(np.where(batch.mask, batch.ids, 9), batch.mask, batch.labels)
    loss, metrics = evaluate(params, batch)
    assert float(evaluate(params, other)[0]) == pytest.approx(float(loss), rel=1e-5)
    halves = [evaluate(params, jax.tree.map(lambda x, at=at: x[at : at + 2], batch))[1] for at in (0, 2)]
    summed = jax.tree.map(jnp.add, *halves)
    for name in metrics:
        np.testing.assert_allclose(summed[name].value, metrics[name].value, rtol=1e-5)


def test_a_tiny_encoder_learns(objective, params):
    batch = batch_of([toy.sample(seed, (1,)) for seed in range(8)])
    optimizer = optax.adam(1e-2)

    @functools.partial(jax.jit, donate_argnums=0)
    def step(carry, _):
        params, state = carry
        grads, metrics = jax.grad(lambda p: objective(Trees(p), batch, None), has_aux=True)(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), metrics

    start = jax.tree.map(jnp.copy, params)
    (trained, _), metrics = jax.jit(lambda carry: jax.lax.scan(step, carry, length=100))((start, optimizer.init(start)))
    losses = np.asarray(metrics["loss"].value)
    assert losses[0] > 0.5 * UNREAD
    assert losses[-1] < 0.05 * losses[0]
    assert metrics["read"].value[-1] > 0.9
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), trained, params)
    assert all(jax.tree.leaves(moved))
