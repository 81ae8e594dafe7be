"""Which key blocks each query block attends to."""

import math
import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp

from lcv_kernels.pallas.block_sparse_attention.highest import highest

Array = jax.Array

# Query blocks are taken some at a time, so that their float32 scores take about this many bytes.
SCORES_BUDGET = 1 << 28


class Selection(NamedTuple):
    """The key blocks of every query block.

    indices: (B, heads, Nq, R) int32, distinct and ascending in the first `counts` entries of a row; the entries behind
    them are in range and mean nothing. counts: (B, heads, Nq) int32, at most R.
    """

    indices: Array
    counts: Array


def select_blocks(
    q: Array, k: Array, *, block_q: int, block_k: int, sparsity: float | None, cdf: float | None = None
) -> Selection:
    """Chooses by the product of block averages; see the package for the rule.

    q: (B, N, heads, d), k: (B, K, heads, d), both in block order, as attention sees them (normed, rotated). block_q,
    block_k: tokens of a block. R is int((1 - sparsity) * Nk), or Nk when cdf is given. Averages and scores are exact
    float32 on every backend. Of equal scores the first block is taken. No gradient passes.

    Raises ValueError for shapes that do not fit, and for a sparsity or cdf that is outside [0, 1] or absent in both.
    """
    check_pair(q, k, block_q, block_k)
    return select_by_means(block_means(q, block_q), block_means(k, block_k), sparsity=sparsity, cdf=cdf)


def select_by_means(means_q: Array, means_k: Array, *, sparsity: float | None, cdf: float | None = None) -> Selection:
    """`select_blocks` from the blocks' averages, (B, heads, Nq, d) and (B, heads, Nk, d) float32: for those who hold
    the tokens of a part of the blocks only."""
    blocks, d = means_k.shape[2:]
    top = kept_blocks(blocks, sparsity, cdf)
    if top == 0 and cdf is None:
        shape = means_q.shape[:3]
        return Selection(jnp.zeros((*shape, 0), jnp.int32), jnp.zeros(shape, jnp.int32))

    def choose(means_q: Array) -> Selection:
        scores = jnp.einsum("bhnd,bhkd->bhnk", means_q, means_k, precision=jax.lax.Precision.HIGHEST)
        return _top(scores, top) if cdf is None else _top_or_cdf(scores, top, cdf, d)

    B, heads, rows, _ = means_q.shape
    chunks = min(rows, -(-4 * B * heads * rows * blocks // SCORES_BUDGET))
    if chunks <= 1:
        return choose(means_q)
    size = -(-rows // chunks)
    padded = jnp.pad(means_q, ((0, 0), (0, 0), (0, size * chunks - rows), (0, 0)))
    found = jax.lax.map(choose, padded.reshape(B, heads, chunks, size, d).transpose(2, 0, 1, 3, 4))
    joined = (jnp.moveaxis(x, 0, 2).reshape(B, heads, chunks * size, *x.shape[4:])[:, :, :rows] for x in found)
    return Selection(*joined)


def block_means(x: Array, size: int) -> Array:
    """Averages of blocks of `size` tokens, without a gradient: (B, N, heads, d) -> (B, heads, N / size, d) float32."""
    B, N, heads, d = x.shape
    x = jax.lax.stop_gradient(x).reshape(B, N // size, size, heads, d)
    return x.mean(2, dtype=jnp.float32).swapaxes(1, 2)


def kept_blocks(blocks: int, sparsity: float | None, cdf: float | None = None) -> int:
    """The number of key blocks that sparsity keeps of `blocks`; 0 when it is None and cdf decides alone.

    The product is cut off in double precision, as published: 0.9 of 10 blocks keeps none, (1 - 0.9) * 10 being just
    under 1. Raises ValueError for values that mean nothing.
    """
    if sparsity is None and cdf is None:
        raise ValueError("sparsity and cdf are both None: give at least one, sparsity=0.0 keeps every block")
    for name, value in (("sparsity", sparsity), ("cdf", cdf)):
        if value is not None and not (isinstance(value, numbers.Real) and 0.0 <= value <= 1.0):
            raise ValueError(f"{name}={value!r}: expected a number from 0 to 1")
    return 0 if sparsity is None else int((1 - sparsity) * blocks)


def check_pair(q: Array, k: Array, block_q: int, block_k: int) -> None:
    """Raises ValueError unless q (B, N, heads, d) and k (B, K, heads, d) fit each other and divide into blocks."""
    if q.ndim != 4 or k.ndim != 4 or (q.shape[0], *q.shape[2:]) != (k.shape[0], *k.shape[2:]):
        raise ValueError(f"q {q.shape} and k {k.shape}: expected (B, N, heads, d) and (B, K, heads, d)")
    for name, x, size in (("q", q, block_q), ("k", k, block_k)):
        if size < 1 or x.shape[1] % size:
            raise ValueError(f"{name} has {x.shape[1]} tokens: expected a multiple of its block, {size} tokens")


def _top(scores: Array, top: int) -> Selection:
    """The `top` highest of scores (B, h, Nq, Nk), in ascending order of their indices."""
    return Selection(highest(scores, top), jnp.full(scores.shape[:-1], top, jnp.int32))


def _top_or_cdf(scores: Array, top: int, cdf: float, d: int) -> Selection:
    """All of scores (B, h, Nq, Nk), the kept ones first and in ascending order of their indices."""
    blocks = scores.shape[-1]
    chances = jax.nn.softmax(scores / math.sqrt(d), -1)
    chances, order = _descending(chances)
    # The sum of all of them is 1, whatever float32 makes of it.
    top = blocks if cdf == 1.0 else top
    counts = jnp.maximum((jnp.cumsum(chances, -1) <= cdf).sum(-1), top).astype(jnp.int32)
    kept = jnp.arange(blocks) < counts[..., None]
    order = jnp.sort(jnp.where(kept, order, order + blocks), -1)
    return Selection(order % blocks, counts)


def _descending(x: Array) -> tuple[Array, Array]:
    """x in descending order along its last axis, and the places it came from, int32; of equals the first comes first.

    A sort, because the running sum of the probabilities needs all of them in order.
    """
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    negated, order = jax.lax.sort((-x, places), num_keys=1, is_stable=True)
    return -negated, order
