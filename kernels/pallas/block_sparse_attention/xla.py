"""Block sparse attention of plain XLA operations: gathers the selected blocks and touches no others.

Query blocks are taken some at a time, all batch elements and heads together, so that batch and heads may be sharded
by the compiler and memory stays bounded. The keys of a query block are taken in slices where they are many, with a
running maximum as in flash attention; only as many slices as the fullest row of the chunk needs are computed. The
backward pass goes the same way: it computes the probabilities again from the saved log-sum-exp and adds the
gradients of keys and values, in float32, to where they were gathered from.

Inside this file: C query blocks of a chunk, S key blocks of a slice; K tokens of a slice; the rest as in the package.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Array = jax.Array

# What `jax.checkpoint_policies` know the output and its log-sum-exps by: a policy that saves this name does not run the
# forward pass again for the backward pass.
KEPT = "attention"

# Where a config was measured. On CPUs a chunk should stay in the cache: of 1 to 256 MiB, 4 to 16 were the fastest by up
# to 1.7 (benchmarks/bsa_xla.py). Elsewhere the rule is a chunk that keeps the whole device busy.
TUNED = {"cpu": 1 << 24}


@dataclasses.dataclass(frozen=True)
class XlaConfig:
    """How the work is cut.

    chunk_bytes: what the gathered blocks and the logits of a chunk may take; at least one query block is in a chunk.
    slice_keys: most tokens of keys that a query block meets at a time; at least one key block is in a slice.
    """

    chunk_bytes: int = 1 << 28
    slice_keys: int = 1 << 14

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name}={getattr(self, field.name)}: expected at least 1")


def attend(
    q: Array,
    k: Array,
    v: Array,
    indices: Array,
    counts: Array,
    *,
    block_q: int,
    block_k: int,
    config: XlaConfig,
) -> tuple[Array, Array]:
    """Arguments and results as of `attend_blocks`: out (B, N, heads, d) in q's dtype, lse (B, heads, N) float32."""
    q, k, v, indices, counts = vary_alike(q, k, v, indices, counts)
    return _attend(_Sizes(block_q, block_k, config), q, k, v, indices, counts)


def config_for(platform: str) -> XlaConfig:
    """The config that is used on "cpu", "gpu" or "tpu" where none is given."""
    rule = XlaConfig()
    return dataclasses.replace(rule, chunk_bytes=TUNED.get(platform, rule.chunk_bytes))


class _Sizes(NamedTuple):
    block_q: int
    block_k: int
    config: XlaConfig


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(sizes: _Sizes, q: Array, k: Array, v: Array, indices: Array, counts: Array) -> tuple[Array, Array]:
    return _forward(sizes, q, k, v, indices, counts)[0]


def _forward(sizes: _Sizes, q: Array, k: Array, v: Array, indices: Array, counts: Array):
    """out and lse, and what the backward pass needs."""
    d = q.shape[-1]
    plan = _plan(sizes, q, indices, bytes_per_key=2 * d * k.dtype.itemsize + 8 * sizes.block_q)
    blocks_k, blocks_v = (_key_blocks(x, sizes.block_k) for x in (k, v))

    def chunk(_, args):
        queries, picks, counts = args  # (B, C, block_q, h, d), (slices, B, h, C, S), (B, h, C)
        queries = _heads_first(queries)

        def step(i, carry):
            total, peak, mass = carry
            keys, values, valid = _slice(plan, sizes.block_k, i, picks, counts, blocks_k, blocks_v)
            logits = jnp.where(valid, _logits(queries, keys), -jnp.inf)
            higher = jnp.maximum(peak, logits.max(-1))
            base = jnp.where(higher == -jnp.inf, 0.0, higher)  # nothing seen yet: exp(-inf - 0) is 0
            weights = jnp.exp(logits - base[..., None])
            shrink = jnp.exp(peak - base)
            part = _product("bhcqk,bhckd->bhcqd", weights.astype(values.dtype), values)
            return total * shrink[..., None] + part, higher, mass * shrink + weights.sum(-1)

        start = (
            _full(0.0, queries.shape, queries),
            _full(-jnp.inf, queries.shape[:-1], queries),
            _full(0.0, queries.shape[:-1], queries),
        )
        total, peak, mass = _over_slices(plan, counts, step, start)
        out = total / jnp.where(mass == 0, 1.0, mass)[..., None]
        lse = jnp.where(mass == 0, -jnp.inf, peak + jnp.log(jnp.where(mass == 0, 1.0, mass)))
        return (), (_heads_last(out.astype(queries.dtype)), lse)

    parts = (plan.chunked(_query_blocks(q, sizes.block_q), 1), plan.picks(indices), plan.chunked(counts, 2))
    _, (out, lse) = jax.lax.scan(chunk, (), parts)
    out = plan.joined(out, 1).reshape(q.shape)
    lse = plan.joined(lse, 2).reshape(*counts.shape[:2], q.shape[1])
    out, lse = checkpoint_name((out, lse), KEPT)
    return (out, lse), (q, k, v, indices, counts, out, lse)


def _backward(sizes: _Sizes, saved, cotangents):
    q, k, v, indices, counts, out, lse = saved
    d_out, d_lse = cotangents
    d = q.shape[-1]
    per_key = 2 * d * (k.dtype.itemsize + 4) + 12 * sizes.block_q
    plan = _plan(sizes, q, indices, bytes_per_key=per_key)
    blocks_k, blocks_v = (_key_blocks(x, sizes.block_k) for x in (k, v))
    # The softmax pulls every gradient of a row towards their mean; the log-sum-exp's own gradient comes on top. A row
    # that saw nothing has no gradient, whatever it is given.
    means = jnp.einsum("bnhd,bnhd->bhn", d_out.astype(jnp.float32), out.astype(jnp.float32))
    nothing = lse == -jnp.inf
    shift = jnp.where(nothing, 0.0, means - d_lse)
    lse = jnp.where(nothing, 0.0, lse)

    def chunk(gradients, args):
        queries, d_out, lse, shift, picks, counts = args
        queries, d_out = _heads_first(queries), _heads_first(d_out)

        def step(i, carry):
            d_queries, d_k, d_v = carry
            keys, values, valid = _slice(plan, sizes.block_k, i, picks, counts, blocks_k, blocks_v)
            weights = jnp.where(valid, jnp.exp(_logits(queries, keys) - lse[..., None]), 0.0)
            d_weights = _product("bhcqd,bhckd->bhcqk", d_out, values)
            d_logits = (weights * (d_weights - shift[..., None]) * d**-0.5).astype(queries.dtype)
            d_queries += _product("bhcqk,bhckd->bhcqd", d_logits, keys)
            place = jax.lax.dynamic_index_in_dim(picks, i, keepdims=False)
            d_k = _scatter_add(d_k, place, _product("bhcqk,bhcqd->bhckd", d_logits, queries))
            d_v = _scatter_add(d_v, place, _product("bhcqk,bhcqd->bhckd", weights.astype(d_out.dtype), d_out))
            return d_queries, d_k, d_v

        start = (_full(0.0, queries.shape, queries), *gradients)
        d_queries, *gradients = _over_slices(plan, counts, step, start)
        return tuple(gradients), _heads_last(d_queries.astype(queries.dtype))

    zeros = _full(0.0, blocks_k.shape, k)
    per_row = (x.reshape(*counts.shape, sizes.block_q) for x in (lse, shift))
    parts = (
        *(plan.chunked(_query_blocks(x, sizes.block_q), 1) for x in (q, d_out)),
        *(plan.chunked(x, 2) for x in per_row),
        plan.picks(indices),
        plan.chunked(counts, 2),
    )
    (d_k, d_v), d_q = jax.lax.scan(chunk, (zeros, zeros), parts)
    d_q = plan.joined(d_q, 1).reshape(q.shape)
    d_k, d_v = (_heads_last(g.astype(x.dtype)).reshape(x.shape) for g, x in ((d_k, k), (d_v, v)))
    return d_q, d_k, d_v, None, None


_attend.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """How the query blocks of a call are cut into chunks and the selected key blocks into slices."""

    rows: int  # query blocks in all
    chunks: int
    blocks: int  # key blocks of a slice
    slices: int

    def chunked(self, x: Array, axis: int) -> Array:
        """Query blocks on `axis` to (chunks, ..., C, ...), filled up with zeros."""
        per_chunk = -(-self.rows // self.chunks)
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, per_chunk * self.chunks - self.rows)
        x = jnp.pad(x, padding)
        x = x.reshape(*x.shape[:axis], self.chunks, per_chunk, *x.shape[axis + 1 :])
        return jnp.moveaxis(x, axis, 0)

    def joined(self, x: Array, axis: int) -> Array:
        """The inverse of `chunked`."""
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(x, 0, self.rows, axis=axis)

    def picks(self, indices: Array) -> Array:
        """(B, h, Nq, R) to (chunks, slices, B, h, C, S), filled up with zeros."""
        missing = self.slices * self.blocks - indices.shape[-1]
        x = self.chunked(jnp.pad(indices, ((0, 0), (0, 0), (0, 0), (0, missing))), 2)
        return jnp.moveaxis(x.reshape(*x.shape[:-1], self.slices, self.blocks), -2, 1)


def _plan(sizes: _Sizes, q: Array, indices: Array, bytes_per_key: int) -> _Plan:
    """bytes_per_key: what one key of one query block of one head takes while its chunk is worked on."""
    B, heads, rows, selected = indices.shape
    blocks = min(selected, max(1, sizes.config.slice_keys // sizes.block_k))
    slices = -(-selected // blocks)
    blocks = -(-selected // slices)  # evenly
    row_bytes = B * heads * blocks * sizes.block_k * bytes_per_key
    chunks = -(-rows // max(1, min(rows, sizes.config.chunk_bytes // row_bytes)))
    return _Plan(rows, chunks, blocks, slices)


def _over_slices(plan: _Plan, counts: Array, step: Callable, start):
    """Applies step(i, carry) to the slices that some row of the chunk reaches into."""
    if plan.slices == 1:
        return step(0, start)
    return jax.lax.fori_loop(0, -(-counts.max() // plan.blocks), step, start)


def _slice(plan: _Plan, block_k: int, i, picks: Array, counts: Array, blocks_k: Array, blocks_v: Array):
    """Keys and values (B, h, C, K, d) of slice i, and which of them count: bool, broadcast against the logits."""
    place = jax.lax.dynamic_index_in_dim(picks, i, keepdims=False)
    valid = i * plan.blocks + jnp.arange(plan.blocks) < counts[..., None]
    valid = valid.repeat(block_k, -1)[..., None, :]
    return _gather(blocks_k, place), _gather(blocks_v, place), valid


def _query_blocks(x: Array, block_q: int) -> Array:
    """(B, N, h, d) to (B, Nq, block_q, h, d)."""
    B, N, h, d = x.shape
    return x.reshape(B, N // block_q, block_q, h, d)


def _heads_first(x: Array) -> Array:
    """Blocks (B, C, tokens, h, d) to (B, h, C, tokens, d).

    XLA refuses some bfloat16 products on CPUs whose operands do not have their batch axes first and in one order.
    """
    return x.transpose(0, 3, 1, 2, 4)


def _heads_last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1, 4)


def _key_blocks(x: Array, block_k: int) -> Array:
    """(B, K, h, d) to (B, h, Nk, block_k, d): whole blocks lie together, for the gather."""
    B, K, h, d = x.shape
    return _heads_first(x.reshape(B, K // block_k, block_k, h, d))


def _gather(blocks: Array, place: Array) -> Array:
    """blocks (B, h, Nk, block_k, d), place (B, h, C, S) -> (B, h, C, S * block_k, d)."""
    taken = jax.vmap(jax.vmap(lambda b, i: b.at[i].get(mode="promise_in_bounds")))(blocks, place)
    return taken.reshape(*place.shape[:3], -1, blocks.shape[-1])


def _scatter_add(blocks: Array, place: Array, x: Array) -> Array:
    """Adds x (B, h, C, S * block_k, d) to the blocks it was gathered from."""
    x = x.reshape(*place.shape, *blocks.shape[-2:])
    return jax.vmap(jax.vmap(lambda b, i, y: b.at[i].add(y, mode="promise_in_bounds")))(blocks, place, x)


def _logits(queries: Array, keys: Array) -> Array:
    return _product("bhcqd,bhckd->bhcqk", queries, keys) * queries.shape[-1] ** -0.5


def _product(equation: str, x: Array, y: Array) -> Array:
    """A product in the arrays' own dtype that adds up in float32."""
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _full(value: float, shape: tuple[int, ...], like: Array) -> Array:
    """A float32 constant that a loop starts from; under shard_map it varies as `like` does."""
    return jnp.full_like(like, value, jnp.float32, shape=shape)


def vary_alike(*arrays: Array) -> list[Array]:
    """Under shard_map: all of them varying over every mesh axis that one of them varies over.

    What is replicated then gets the sum of its gradients over the mesh from JAX; a custom_vjp has to return gradients
    that vary exactly as its arguments do.
    """
    varying = [jax.typeof(x).manual_axis_type.varying for x in arrays]
    axes = frozenset().union(*varying)
    missing = (tuple(sorted(axes - own)) for own in varying)
    return [jax.lax.pcast(x, more, to="varying") if more else x for x, more in zip(arrays, missing, strict=True)]
