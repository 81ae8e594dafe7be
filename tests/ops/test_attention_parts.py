"""Attention put together from parts of the keys is attention to all of them, with its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.ops import attention_parts
from lcv_jax.ops.attention import dense_attention
from lcv_jax.ops.attention_parts import attend_part, merge, no_keys, part_gradients
from traces import equations

close = {"rtol": 1e-5, "atol": 1e-5}


def arrays(queries: int, keys: int, dtype=jnp.float32, heads: int = 2):
    seeds = jax.random.split(jax.random.key(0), 4)
    sizes = (queries, keys, keys, queries)
    return [jax.random.normal(s, (2, n, heads, 4)).astype(dtype) for s, n in zip(seeds, sizes, strict=True)]


def in_parts(q, k, v, d_out, mask):
    """Output and gradients of attention to keys that are met in three parts, one after the other."""
    parts = list(zip(*(jnp.split(x, 3, 1) for x in (k, v)), jnp.split(mask, 3), strict=True))
    whole = no_keys(q)
    for part in parts:
        whole = merge(whole, attend_part(q, *part))
    means = jnp.einsum("bnhd,bnhd->bhn", d_out, whole.out)
    found = [part_gradients(q, *part, d_out, whole.lse, means) for part in parts]
    d_q, d_k, d_v = zip(*found, strict=True)
    return whole.out, sum(d_q), jnp.concatenate(d_k, 1), jnp.concatenate(d_v, 1)


@jax.jit
def at_once(q, k, v, d_out, mask):
    mask = jnp.broadcast_to(mask, (q.shape[0], mask.size))
    out, pull = jax.vjp(lambda *qkv: dense_attention.attend(*qkv, mask), q, k, v)
    return out, *pull(d_out)


@functools.cache
def program(budget: int):
    """`in_parts` compiled with so many bytes of logits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_parts, "LOGITS_BUDGET", budget)
        return jax.jit(in_parts).lower(*arrays(5, 6), jnp.ones(6, bool)).compile()


@pytest.mark.smoke
@pytest.mark.parametrize("budget", [1 << 28, 32])
@given(st.lists(st.booleans(), min_size=6, max_size=6).filter(any))
@settings(max_examples=20, deadline=None)
def test_parts_add_up(budget, mask):
    """Also of parts whose keys are all masked; in one piece, and head by head in chunks of queries."""
    inputs = (*arrays(5, 6), jnp.asarray(mask))
    for name, one, other in zip(("out", "dq", "dk", "dv"), program(budget)(*inputs), at_once(*inputs), strict=True):
        np.testing.assert_allclose(one, other, **close, err_msg=name)


def test_the_log_sum_exp_is_the_natural_one():
    q, k, v, _ = arrays(3, 5)
    logits = np.einsum("bnhd,bkhd->bhnk", q, k) / 2
    np.testing.assert_allclose(attend_part(q, k, v, None).lse, np.log(np.exp(logits).sum(-1)), **close)


def test_nothing_and_nothing_is_nothing():
    q, k, v, _ = arrays(2, 3)
    nothing = attend_part(q, k, v, jnp.zeros(3, bool))
    for part in (nothing, merge(nothing, no_keys(q))):
        np.testing.assert_array_equal(part.out, 0)
        np.testing.assert_array_equal(part.lse, -np.inf)
    whole = attend_part(q, k, v, None)
    for one, other in zip(merge(nothing, whole), whole, strict=True):
        np.testing.assert_allclose(one, other, **close)


def test_large_logits_do_not_overflow():
    q = jnp.full((1, 1, 1, 4), 200.0)
    k = jnp.asarray([1.0, 2.0]).reshape(1, 2, 1, 1) * jnp.full((4,), 50.0)
    v = jnp.asarray([5.0, 7.0]).reshape(1, 2, 1, 1) * jnp.ones(4)
    parts = [attend_part(q, k[:, i : i + 1], v[:, i : i + 1], None) for i in range(2)]
    np.testing.assert_array_equal(merge(*parts).out, 7.0)


def test_bfloat16_is_multiplied_as_it_is_and_weighed_in_float32():
    q, k, v, d_out = arrays(4, 6, jnp.bfloat16)
    part = attend_part(q, k, v, None)
    assert (part.out.dtype, part.lse.dtype) == (jnp.float32, jnp.float32)
    dots = [
        e
        for e in equations(jax.make_jaxpr(lambda *x: attend_part(*x, None))(q, k, v))
        if e.primitive.name == "dot_general"
    ]
    assert {str(x.aval.dtype) for e in dots for x in e.invars} == {"bfloat16"}
    assert {str(e.outvars[0].aval.dtype) for e in dots} == {"float32"}
    means = jnp.zeros(part.lse.shape)
    assert {x.dtype for x in part_gradients(q, k, v, None, d_out, part.lse, means)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("tables", [1, 2])
def test_logits_stay_within_the_budget(monkeypatch, tables):
    """Of 2 x 2 heads of 64 x 32 logits, 32 KiB, no more than 2 KiB are made at a time, forward and backward."""
    q, k, v, d_out = arrays(64, 32)
    monkeypatch.setattr(attention_parts, "LOGITS_BUDGET", 2048)
    if tables == 1:
        trace = jax.make_jaxpr(lambda *x: attend_part(*x, None))(q, k, v)
    else:
        lse = jnp.zeros((2, 2, 64))
        trace = jax.make_jaxpr(lambda *x: part_gradients(*x[:3], None, x[3], lse, lse))(q, k, v, d_out)
    tables_made = [e.outvars[0].aval for e in equations(trace) if e.primitive.name in ("dot_general", "exp")]
    logits = [4 * x.size for x in tables_made if x.shape[-1] == 32]
    assert logits
    assert max(logits) <= 2048 // tables


def test_why_not_the_residual_that_jax_returns():
    """It is rounded to the dtype of q and has no gradient. If this fails, cuDNN could serve the ring."""
    q, k, v, _ = arrays(4, 6, jnp.bfloat16)
    attend = functools.partial(jax.nn.dot_product_attention, return_residual=True)
    found = attend(q, k, v)[1].swapaxes(1, 2)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), attend_part(q, k, v, None).lse, rtol=0.02)
    gradient = jax.grad(lambda q: attend(q, k, v)[1].astype(jnp.float32).sum())(q)
    np.testing.assert_array_equal(gradient.astype(jnp.float32), 0)
