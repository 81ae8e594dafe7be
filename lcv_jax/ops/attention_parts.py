"""Dense attention to a part of the keys at a time, for those who hold no more of them at once.

Softmax over all keys is put together from parts by the log of their sums of exponentials (arXiv 2112.05682):
each part's output counts as much as its share of the whole sum. The gradients of a part need nothing of the other parts
but what is known of the whole: its log-sum-exp, and for each query the product of the output and its gradient.

This is XLA on every backend. cuDNN computes the log-sum-exp as well, but JAX's public function rounds it to the dtype
of q, which in bfloat16 would weigh parts with errors of some percent, and passes no gradient through it.

Inside this file: G heads of all batch elements, one after the other; P of them at a time; R queries of a chunk.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lcv_jax.ops.attention import LOGITS_BUDGET

Array = jax.Array


class Part(NamedTuple):
    """Attention to some of the keys, both in float32: out (B, N, h, d); lse (B, h, N), the natural logarithm of the
    sum of exponentials of the scaled logits. Without any key out is 0 and lse -inf."""

    out: Array
    lse: Array


def no_keys(q: Array) -> Part:
    """What queries (B, N, h, d) get that have met no key yet."""
    out = jnp.zeros_like(q, jnp.float32)
    return Part(out, jnp.full_like(out[..., 0].swapaxes(1, 2), -jnp.inf))


def merge(one: Part, other: Part) -> Part:
    """Attention to the keys of both."""
    lse = jnp.logaddexp(one.lse, other.lse)
    return Part(sum(_of_queries(shares(part.lse, lse)) * part.out for part in (one, other)), lse)


def shares(lse: Array, whole: Array) -> Array:
    """exp(lse - whole): a part's share of the sum of exponentials of the whole; 0 where that has no keys either."""
    return jnp.exp(lse - jnp.where(whole == -jnp.inf, 0.0, whole))


def attend_part(q: Array, k: Array, v: Array, key_mask: Array | None) -> Part:
    """q: (B, N, h, d); k, v: (B, K, h, d); key_mask: (K,) bool, False keys are not attended, None: all are.

    The logits alive at once stay below LOGITS_BUDGET. The products take the arrays' dtype, the softmax is float32.
    Not meant to be differentiated: see `part_gradients`.
    """
    cut = _Cut.of(q, k, tables=1)

    def head(args: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        chunks, k, v = args

        def chunk(q: Array) -> tuple[Array, Array]:
            logits = _logits(q, k, key_mask)
            peak = logits.max(-1, keepdims=True)
            weights = jnp.exp(logits - jnp.where(peak == -jnp.inf, 0.0, peak))
            mass = weights.sum(-1, keepdims=True)
            out = _product("prk,pkd->prd", weights.astype(v.dtype), v) / jnp.where(mass == 0, 1.0, mass)
            return out, (peak + jnp.log(mass))[..., 0]

        return jax.lax.map(chunk, chunks)

    out, lse = jax.lax.map(head, (cut.queries(q), cut.keys(k), cut.keys(v)))
    return Part(cut.joined(out).swapaxes(1, 2), cut.joined(lse[..., None])[..., 0])


def part_gradients(
    q: Array, k: Array, v: Array, key_mask: Array | None, d_out: Array, lse: Array, means: Array
) -> tuple[Array, Array, Array]:
    """Gradients of q, k and v, float32, that come from the keys given; those of q are to be added over the parts.

    q, k, v, key_mask: as in `attend_part`. d_out: (B, N, h, d), the gradient of the whole's output; lse: (B, h, N) of
    the whole; means: (B, h, N), products of d_out and the whole's output.
    """
    cut = _Cut.of(q, k, tables=2)

    def head(args):
        chunks, k, v = args

        def chunk(gradients, args):
            d_k, d_v = gradients
            q, d_out, lse, means = args
            weights = jnp.exp(_logits(q, k, key_mask) - lse)
            d_weights = _product("prd,pkd->prk", d_out, v)
            d_logits = (weights * (d_weights - means) * q.shape[-1] ** -0.5).astype(q.dtype)
            d_k += _product("prk,prd->pkd", d_logits, q)
            d_v += _product("prk,prd->pkd", weights.astype(d_out.dtype), d_out)
            return (d_k, d_v), _product("prk,pkd->prd", d_logits, k)

        gradients, d_q = jax.lax.scan(chunk, tuple(jnp.zeros_like(x, jnp.float32) for x in (k, v)), chunks)
        return d_q, *gradients

    per_query = (cut.queries(x[..., None].swapaxes(1, 2)) for x in (lse, means))
    chunks = (cut.queries(q), cut.queries(d_out), *per_query)
    d_q, d_k, d_v = jax.lax.map(head, (chunks, cut.keys(k), cut.keys(v)))
    return cut.joined(d_q).swapaxes(1, 2), *(
        x.reshape(*k.shape[::2], *k.shape[1::2]).swapaxes(1, 2) for x in (d_k, d_v)
    )


class _Cut(NamedTuple):
    """Everything at once if the logits fit; else one head after the other, each in chunks of queries."""

    batch: int
    heads: int
    rows: int  # queries in all
    groups: int
    chunks: int

    @classmethod
    def of(cls, q: Array, k: Array, tables: int) -> "_Cut":
        """tables: how many tables of the logits' size are alive at once."""
        B, N, h, _ = q.shape
        head_bytes = 4 * tables * N * k.shape[1]
        if B * h * head_bytes <= LOGITS_BUDGET:
            return cls(B, h, N, 1, 1)
        return cls(B, h, N, B * h, math.ceil(head_bytes / LOGITS_BUDGET))

    def queries(self, x: Array) -> Array:
        """(B, N, h, c) -> (G / P, chunks, P, R, c), filled up with zeros."""
        rows = -(-self.rows // self.chunks)
        x = jnp.pad(x, ((0, 0), (0, rows * self.chunks - self.rows), (0, 0), (0, 0))).swapaxes(1, 2)
        return x.reshape(self.groups, self.chunks, -1, rows, x.shape[-1])

    def keys(self, x: Array) -> Array:
        """(B, K, h, d) -> (G / P, P, K, d)."""
        x = x.swapaxes(1, 2)
        return x.reshape(self.groups, -1, *x.shape[2:])

    def joined(self, x: Array) -> Array:
        """(G / P, chunks, P, R, c) -> (B, h, N, c)."""
        return x.reshape(self.batch, self.heads, -1, x.shape[-1])[:, :, : self.rows]


def _logits(q: Array, k: Array, key_mask: Array | None) -> Array:
    logits = _product("prd,pkd->prk", q, k) * q.shape[-1] ** -0.5
    return logits if key_mask is None else jnp.where(key_mask, logits, -jnp.inf)


def _product(equation: str, x: Array, y: Array) -> Array:
    """A product in the arrays' own dtype that adds up in float32."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _of_queries(x: Array) -> Array:
    """(B, h, N) to broadcast against (B, N, h, d)."""
    return x.swapaxes(1, 2)[..., None]
