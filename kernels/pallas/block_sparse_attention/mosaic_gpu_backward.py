"""The backward kernels: dq over the selection, dk and dv over the inverted selection.

With p = exp(logit - lse), delta = sum over d of dout * out, less the gradient of lse:

    dv = p^T dout        ds = p * (dout v^T - delta)        dq = ds k / sqrt(d)        dk = ds^T q / sqrt(d)

p is computed again from the log-sum-exp. Two kernels compute it twice (7 products where 5 would do), and need no
atomic additions: every gradient is written once, by one warpgroup, in one order, so that bytes repeat.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lcv_kernels.pallas.block_sparse_attention import mosaic_gpu_stream as stream
from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu_config import ROWS, Tiling
from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu_schedule import Schedule

Array = jax.Array

LOG2E = math.log2(math.e)


def statistics(out: Array, lse: Array, dout: Array, dlse: Array) -> Array:
    """(B, heads, 2, N) float32: what both kernels need per query: lse in base 2, and delta.

    out, dout: (B, N, heads, d). lse, dlse: (B, heads, N) float32.
    """
    delta = jnp.einsum("bnhd,bnhd->bhn", out.astype(jnp.float32), dout.astype(jnp.float32)) - dlse
    return jnp.stack([lse * LOG2E, delta], axis=2)


def dq(
    q: Array,
    k: Array,
    v: Array,
    dout: Array,
    stats: Array,
    schedule: Schedule,
    *,
    block_q: int,
    block_k: int,
    tiling: Tiling,
    interpret: Any,
) -> Array:
    """The gradient of q, (B, N, heads, d) like q. The schedule has query blocks as rows."""
    batch, tokens, heads, head_dim = q.shape
    unit = stream.Interpreter() if interpret else stream.Device()
    scale = 1 / math.sqrt(head_dim)

    def kernel(q_ref, k_ref, v_ref, dout_ref, stats_ref, entries, offsets, dq_ref, held, per_row, loaded, rings, bars):
        where, warpgroup = stream.place(tiling)
        b, h, tile = where
        walk = stream.Walk.of(entries, offsets, where, block=block_k, rows=block_q, tiling=tiling)
        keys, values = (
            stream.Channel.of_tokens(ref, where, tiling, ring, pair)
            for ref, ring, pair in zip((k_ref, v_ref), rings, bars, strict=True)
        )

        def consumer():
            start, exists = stream.rows_of(tile, warpgroup, tiling, tokens)
            rows = (b, pl.ds(start, ROWS), h)
            queries, gradients = (x.at[warpgroup] for x in held)
            numbers = per_row.at[warpgroup]
            sources = (q_ref.at[rows], dout_ref.at[rows], stats_ref.at[b, h, :, pl.ds(start, ROWS)])
            barriers = (barrier.at[warpgroup] for barrier in loaded)
            stream.load(list(zip(sources, (queries, gradients, numbers), barriers, strict=True)))
            lse, delta = (unit.per_row_values(numbers.at[i]) for i in range(2))

            def visit(slot, total):
                key_tile = keys.take(slot)
                logits = unit.outer(queries, key_tile)
                weights = jnp.exp2(logits * (scale * LOG2E) - lax.broadcast_in_dim(lse, logits.shape, [0]))
                change = unit.outer(gradients, values.take(slot))
                values.release(slot)
                change = weights * (change - lax.broadcast_in_dim(delta, change.shape, [0]))
                total = unit.add_product(total, change.astype(q.dtype), key_tile)
                keys.release(slot)
                return total

            member = lax.div(warpgroup * ROWS, jnp.int32(block_q))
            total = stream.consume(walk, (keys, values), member, visit, unit.full((ROWS, head_dim), 0))
            queries[...] = (total * scale).astype(q.dtype)
            stream.store(exists, [(queries, dq_ref.at[rows])])

        stream.divide(warpgroup, tiling, walk, (keys, values), consumer)

    held = stream.tiles(tiling.consumers, ROWS, head_dim, q.dtype)
    ring = stream.tiles(tiling.stages, tiling.tile, head_dim, q.dtype)
    (gradient,) = stream.launch(
        kernel,
        (q, k, v, dout, stats, *schedule),
        out_type=(jax.ShapeDtypeStruct(q.shape, q.dtype),),
        scratch=(
            (held, held),
            stream.numbers(tiling.consumers, ROWS),
            tuple(plgpu.Barrier(num_barriers=tiling.consumers) for _ in range(3)),
            (ring, ring),
            (stream.Channel.barriers(tiling), stream.Channel.barriers(tiling)),
        ),
        shape=(batch, heads, -(-tokens // tiling.rows)),
        tiling=tiling,
        interpret=interpret,
        name="bsa_dq",
    )
    return gradient


def dkv(
    q: Array,
    k: Array,
    v: Array,
    dout: Array,
    stats: Array,
    schedule: Schedule,
    *,
    block_q: int,
    block_k: int,
    tiling: Tiling,
    interpret: Any,
) -> tuple[Array, Array]:
    """The gradients of k and v, (B, K, heads, d) like them. The schedule has key blocks as rows."""
    batch, tokens, heads, head_dim = k.shape
    unit = stream.Interpreter() if interpret else stream.Device()
    scale = 1 / math.sqrt(head_dim)

    def kernel(
        q_ref, k_ref, v_ref, dout_ref, stats_ref, entries, offsets, dk_ref, dv_ref, held, loaded, rings, numbers, bars
    ):
        where, warpgroup = stream.place(tiling)
        b, h, tile = where
        walk = stream.Walk.of(entries, offsets, where, block=block_q, rows=block_k, tiling=tiling)
        queries, gradients = (
            stream.Channel.of_tokens(ref, where, tiling, ring, pair)
            for ref, ring, pair in zip((q_ref, dout_ref), rings, bars[:2], strict=True)
        )
        per_query = stream.Channel(lambda token: stats_ref.at[b, h, :, pl.ds(token, tiling.tile)], numbers, *bars[2])
        channels = (queries, gradients, per_query)

        def consumer():
            start, exists = stream.rows_of(tile, warpgroup, tiling, tokens)
            rows = (b, pl.ds(start, ROWS), h)
            keys, values = (x.at[warpgroup] for x in held)
            sources, barriers = (k_ref.at[rows], v_ref.at[rows]), (barrier.at[warpgroup] for barrier in loaded)
            stream.load(list(zip(sources, (keys, values), barriers, strict=True)))

            def visit(slot, totals):
                total_k, total_v = totals
                query_tile = queries.take(slot)
                logits = unit.outer(keys, query_tile)
                pair = per_query.take(slot)
                lse, delta = (unit.per_column_values(pair.at[i]) for i in range(2))
                # Threads read these two, and a copy writes there next: the fence orders the one before the other.
                plgpu.commit_smem()
                per_query.release(slot)
                weights = jnp.exp2(logits * (scale * LOG2E) - lax.broadcast_in_dim(lse, logits.shape, [1]))
                gradient_tile = gradients.take(slot)
                total_v = unit.add_product(total_v, weights.astype(q.dtype), gradient_tile)
                change = unit.outer(values, gradient_tile)
                gradients.release(slot)
                change = weights * (change - lax.broadcast_in_dim(delta, change.shape, [1]))
                total_k = unit.add_product(total_k, change.astype(q.dtype), query_tile)
                queries.release(slot)
                return total_k, total_v

            member = lax.div(warpgroup * ROWS, jnp.int32(block_k))
            zero = unit.full((ROWS, head_dim), 0)
            total_k, total_v = stream.consume(walk, channels, member, visit, (zero, zero))
            keys[...] = (total_k * scale).astype(k.dtype)
            values[...] = total_v.astype(v.dtype)
            stream.store(exists, [(keys, dk_ref.at[rows]), (values, dv_ref.at[rows])])

        stream.divide(warpgroup, tiling, walk, channels, consumer)

    held = stream.tiles(tiling.consumers, ROWS, head_dim, k.dtype)
    ring = stream.tiles(tiling.stages, tiling.tile, head_dim, q.dtype)
    return stream.launch(
        kernel,
        (q, k, v, dout, stats, *schedule),
        out_type=(jax.ShapeDtypeStruct(k.shape, k.dtype), jax.ShapeDtypeStruct(v.shape, v.dtype)),
        scratch=(
            (held, held),
            tuple(plgpu.Barrier(num_barriers=tiling.consumers) for _ in range(2)),
            (ring, ring),
            stream.numbers(tiling.stages, tiling.tile),
            tuple(stream.Channel.barriers(tiling) for _ in range(3)),
        ),
        shape=(batch, heads, -(-tokens // tiling.rows)),
        tiling=tiling,
        interpret=interpret,
        name="bsa_dkv",
    )
