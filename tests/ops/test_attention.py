import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.ops import attention
from lcv_jax.ops.attention import DenseAttention, dense_attention, joined
from traces import equations


def _inputs(N=10, K=7, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(2, 2, N // 2, 3, 8)), dtype)
    k, v = (jnp.asarray(rng.normal(size=(2, 1, K, 3, 8)), dtype) for _ in range(2))
    return q, k, v


def _by_hand(q, k, v, mask=None):
    q, k, v = map(joined, (q, k, v))
    logits = np.einsum("bnhd,bkhd->bhnk", np.float64(q), np.float64(k)) / np.sqrt(q.shape[-1])
    if mask is not None:
        logits = np.where(mask[:, None, None, :], logits, -np.inf)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhnk,bkhd->bnhd", p / p.sum(-1, keepdims=True), np.float64(v))


@pytest.mark.parametrize("implementation", [None, "xla", "xla_chunked"])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_softmax_by_hand(implementation, masked, monkeypatch):
    monkeypatch.setattr(attention, "LOGITS_BUDGET", 4 * 2 * 3 * 7 * 4)  # four rows a chunk: 10 does not divide
    q, k, v = _inputs()
    mask = np.arange(7) < np.array([[3], [7]]) if masked else None
    out = DenseAttention(implementation)(q, k, v, key_mask=None if mask is None else jnp.asarray(mask))
    assert out.shape == q.shape
    np.testing.assert_allclose(joined(out), _by_hand(q, k, v, mask), atol=1e-5)


def test_chunked_gradient_equals_the_whole(monkeypatch):
    monkeypatch.setattr(attention, "LOGITS_BUDGET", 4 * 2 * 3 * 7 * 4)
    q, k, v = _inputs()

    def loss(implementation):
        attend = DenseAttention(implementation)
        return jax.grad(lambda q, k, v: jnp.sin(attend(q, k, v)).sum(), (0, 1, 2))(q, k, v)

    for whole, chunked in zip(loss("xla"), loss("xla_chunked"), strict=True):
        np.testing.assert_allclose(whole, chunked, atol=1e-5)


def test_large_logits_are_chunked_by_themselves(monkeypatch, caplog):
    monkeypatch.setattr(attention, "LOGITS_BUDGET", 64)
    attention._log_once.cache_clear()
    attention._choose.cache_clear()
    q, k, v = _inputs(N=22)
    with caplog.at_level("INFO"):
        text = str(jax.make_jaxpr(dense_attention)(q, k, v))
    assert "scan" in text
    assert "xla_chunked; not cudnn" in caplog.text


def test_softmax_is_float32_in_bfloat16():
    q, k, v = _inputs(dtype=jnp.bfloat16)
    found = [
        str(eqn.outvars[0].aval.dtype)
        for eqn in equations(jax.make_jaxpr(dense_attention)(q, k, v).jaxpr)
        if eqn.primitive.name in ("exp", "reduce_max")
    ]
    assert found
    assert set(found) == {"float32"}
    assert dense_attention(q, k, v).dtype == jnp.bfloat16


def test_equal_settings_are_equal_values():
    assert DenseAttention("xla") == DenseAttention("xla")
    assert hash(DenseAttention("xla")) == hash(DenseAttention("xla"))
    assert DenseAttention("xla") != DenseAttention()


def test_cudnn_is_taken_where_it_can_run():
    call = attention._Call(backend="gpu", dtype="bfloat16", head_dim=128, logits_bytes=2**40, masked=False)
    assert attention._choose(call, None) == "cudnn"
    for change, reason in [
        ({"masked": True}, "takes no key mask"),
        ({"dtype": "float32"}, "not float32"),
        ({"head_dim": 130}, "not 130"),
        ({"backend": "tpu"}, "not gpu"),
    ]:
        other = dataclasses.replace(call, **change)
        assert reason in attention._cudnn_refuses(other)
        assert attention._choose(other, None) == "xla_chunked"


def test_unknown_and_unsupported_implementations_raise():
    q, k, v = _inputs()
    with pytest.raises(InputError, match="'flash' is not known"):
        DenseAttention("flash")(q, k, v)
    if jax.default_backend() != "gpu":
        with pytest.raises(InputError, match="does not support this call: the backend is"):
            DenseAttention("cudnn")(q, k, v)
