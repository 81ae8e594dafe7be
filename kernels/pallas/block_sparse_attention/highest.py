"""The places of the highest numbers of every row, exactly as a stable sort would choose them, without sorting.

The numbers are mapped to unsigned integers of the same order. The count-th highest integer of a row is found from its
highest bits to its lowest, two a step: a step reads the row once and counts what reaches each of three thresholds. What
is above it is kept, and of what equals it the first few. The kept places are written as bits, 32 columns a word, so
that what follows (which of the equals are kept, which column each result is) handles a thirty-second of the data.

benchmarks/bsa_selection.py compares it with a sort; docs/kernels.md counts the passes on a GPU. Every step is
elementwise, a reduction over the row or a gather within it, so that the compiler may cut all other axes (of a top_k it
gathers a sharded batch).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

WORD = 32
# Bits that a step finds, with 2 ** STEP - 1 thresholds. A divisor of WORD.
STEP = 2


def highest(x: Array, count: int) -> Array:
    """x: (..., n) float32; count: 1 to n. Returns (..., count) int32: the places of the `count` highest, ascending.

    Of equals the first come first. 0 equals -0; NaN is below everything, -inf included.
    """
    n = x.shape[-1]
    if count == n:
        return jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), x.shape)
    keys = _ordered(x)
    least = _at_rank(keys, count)[..., None]
    above, equal = _words(keys > least), _words(keys == least)
    missing = count - _ones(above).sum(-1, keepdims=True)
    ties = _ones(equal)
    kept = above | _first_ones(equal, missing - (jnp.cumsum(ties, -1) - ties))
    return _places(kept, count)


def _ordered(x: Array) -> Array:
    """float32 to uint32 in the same order; NaN to 0, which no number has."""
    bits = lax.bitcast_convert_type(jnp.where(x == 0, 0.0, x), jnp.uint32)
    sign = jnp.uint32(1 << (WORD - 1))
    return jnp.where(jnp.isnan(x), jnp.uint32(0), jnp.where(bits >= sign, ~bits, bits | sign))


def _at_rank(keys: Array, count: int) -> Array:
    """The count-th highest of keys (..., n) uint32: the highest threshold that `count` of them reach."""

    def step(i, found):
        shift = (WORD - STEP - STEP * i).astype(jnp.uint32)
        thresholds = (found | (jnp.uint32(digit) << shift) for digit in range(1, 1 << STEP))
        reached = [(keys >= threshold[..., None]).sum(-1, dtype=jnp.int32) >= count for threshold in thresholds]
        return found | (sum(x.astype(jnp.uint32) for x in reached) << shift)

    return lax.fori_loop(0, WORD // STEP, step, jnp.full_like(keys, 0, shape=keys.shape[:-1]))


def _words(mask: Array) -> Array:
    """(..., n) bool to (..., ceil(n / 32)) uint32, the first column in the lowest bit."""
    missing = -mask.shape[-1] % WORD
    mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, missing)])
    mask = mask.reshape(*mask.shape[:-1], -1, WORD)
    return jnp.where(mask, jnp.uint32(1) << jnp.arange(WORD, dtype=jnp.uint32), 0).sum(-1, dtype=jnp.uint32)


def _ones(words: Array) -> Array:
    return lax.population_count(words).astype(jnp.int32)


def _first_ones(words: Array, count: Array) -> Array:
    """words with their lowest `count` ones only; all of them where there are not more, none where count is negative."""
    below = (jnp.uint32(1) << _place_of_one(words, jnp.maximum(count, 0)).astype(jnp.uint32)) - 1
    return jnp.where(count >= _ones(words), words, words & below)


def _place_of_one(words: Array, rank: Array) -> Array:
    """Which bit is the rank-th one, counted from 0 and the lowest bit; any bit where there are not so many."""
    place = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        low = _ones(words & jnp.uint32((1 << half) - 1))
        upper = rank >= low
        rank = jnp.where(upper, rank - low, rank)
        words = jnp.where(upper, words >> half, words)
        place = jnp.where(upper, place + half, place)
    return place


def _places(words: Array, count: int) -> Array:
    """The places of the ones of words (..., W), of which every row has `count`: (..., count) int32, ascending."""
    ones = _ones(words)
    ends = jnp.cumsum(ones, -1)
    slots = jnp.arange(count, dtype=jnp.int32)
    # Unrolled, the search is one elementwise kernel on a GPU.
    search = functools.partial(jnp.searchsorted, side="right", method="scan_unrolled")
    word = jnp.vectorize(search, signature="(w),(r)->(r)")(ends, slots)
    here, before = (jnp.take_along_axis(x, word, -1) for x in (words, ends - ones))
    return WORD * word + _place_of_one(here, slots - before)
