"""Rematerialisation changes what is kept and computed again, not what comes out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import traces
import training
from lcv_jax.errors import InputError
from lcv_jax.models.remat import Remat
from lcv_jax.ops.attention import dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention

SPARSE = BlockSparseAttention((1, 2, 2), (1, 2, 2), sparsity=0.5)
X = np.random.default_rng(0).normal(size=(1, 2, 16, 16, 16)).astype(np.float32)
TEXT = np.random.default_rng(1).normal(size=(1, 3, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    return training.awake(training.init(training.dit()))


def loss(remat, attention=dense_attention, config=training.TINY):
    model = training.dit(config, remat=remat, attention=attention)
    t = np.full((1, 2), 0.5, np.float32)
    return lambda params: jnp.square(model.apply({"params": params}, X, t, TEXT)).mean()


@pytest.mark.slow
def test_gradients_are_the_same_and_memory_is_less():
    """Deep, so that what is kept of every block outweighs what the block at work needs."""
    deep = dataclasses.replace(training.TINY, depth=16)
    params = training.awake(training.init(training.dit(deep)), scale=0.02)
    compiled = {remat: jax.jit(jax.grad(loss(remat, config=deep))).lower(params).compile() for remat in Remat}
    exact = compiled[Remat.NONE](params)
    for remat in Remat:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), compiled[remat](params), exact
        )
    held = {remat: program.memory_analysis().temp_size_in_bytes for remat, program in compiled.items()}
    assert held[Remat.FULL] < held[Remat.ATTENTION] < held[Remat.DOTS] < held[Remat.NONE]


def kept(remat, params, attention):
    """Floats of one token that all blocks keep: what differentiation takes along, weights and constants aside."""
    pulled = jax.eval_shape(lambda params: jax.vjp(loss(remat, attention), params)[1], params)
    tokens = 2 * 8 * 8
    stacked = (x for x in jax.tree.leaves(pulled) if x.shape[:2] == (2, 1) and np.prod(x.shape) % (2 * tokens) == 0)
    return sum(np.prod(x.shape) // (2 * tokens) for x in stacked if np.prod(x.shape) >= 2 * tokens)


@pytest.mark.smoke
@pytest.mark.parametrize(("attention", "statistics"), [(dense_attention, 0), (SPARSE, 2)])
def test_what_is_kept_is_what_the_name_says(params, attention, statistics):
    """FULL: the block's input, of width 32. ATTENTION: its output too, and a sparse one's log-sum-exp of each head."""
    assert kept(Remat.FULL, params, attention) == 32
    assert kept(Remat.ATTENTION, params, attention) == 32 + 32 + statistics
    assert kept(Remat.DOTS, params, attention) > 200


@pytest.mark.parametrize(("remat", "runs"), [(Remat.FULL, 2), (Remat.ATTENTION, 1)])
def test_the_attention_is_not_run_again(params, remat, runs):
    """Of the block sparse attention's forward pass, there is one running maximum."""
    program = jax.make_jaxpr(jax.grad(loss(remat, SPARSE)))(params)
    rows = (1, 2, 32, 4)  # (B, heads, query blocks, tokens of a block)
    maxima = [e for e in traces.equations(program) if e.primitive.name == "max" and e.outvars[0].aval.shape == rows]
    assert len(maxima) == runs


@pytest.mark.parametrize(
    ("remat", "keys", "runs"), [(Remat.FULL, 64, 2), (Remat.ATTENTION, 64, 1), (Remat.ATTENTION, 8, 2)]
)
def test_what_cudnn_needs_is_kept(monkeypatch, remat, keys, runs):
    """Traced as if cuDNN were here; attention to few keys, to text, is run again."""
    fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    q, k = (jnp.zeros((1, n, 2, 64), jnp.bfloat16) for n in (64, keys))
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    block = jax.checkpoint(lambda q, k: jnp.square(attend(q, k, k)).sum(), policy=remat.policy)
    program = jax.make_jaxpr(jax.grad(block))(q, k)
    forward = [e for e in traces.equations(program) if e.primitive.name == "dot_product_attention_fwd_wrapper"]
    assert len(forward) == runs


def test_an_unknown_name_raises():
    with pytest.raises(InputError, match="remat 'all' is not known: expected one of none, dots, attention, full"):
        Remat.named("all")
    assert Remat.named("full") is Remat.FULL
