"""The forward kernel: attention of every query block over its key blocks, and the log-sum-exp of every query."""

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


def forward(
    q: Array, k: Array, v: Array, schedule: Schedule, *, block_q: int, block_k: int, tiling: Tiling, interpret: Any
) -> tuple[Array, Array]:
    """out (B, N, heads, d) like q, lse (B, heads, N) float32; see `attend_blocks`. The schedule has queries as rows."""
    batch, tokens, heads, head_dim = q.shape
    unit = stream.Interpreter() if interpret else stream.Device()
    scale = LOG2E / math.sqrt(head_dim)

    def kernel(q_ref, k_ref, v_ref, entries, offsets, out_ref, lse_ref, held, lse_held, loaded, rings, barriers):
        where, warpgroup = stream.place(tiling)
        b, h, tile = where
        walk = stream.Walk.of(entries, offsets, where, block=block_k, rows=block_q, tiling=tiling)
        keys, values = (
            stream.Channel.of_tokens(ref, where, tiling, ring, pair)
            for ref, ring, pair in zip((k_ref, v_ref), rings, barriers, strict=True)
        )

        def consumer():
            start, exists = stream.rows_of(tile, warpgroup, tiling, tokens)
            rows = (b, pl.ds(start, ROWS), h)
            queries, lse_tile = held.at[warpgroup], lse_held.at[warpgroup]
            stream.load([(q_ref.at[rows], queries, loaded.at[warpgroup])])

            def visit(slot, carry):
                return _online_softmax(unit, queries, keys, values, slot, carry, scale)

            carry = (unit.full((ROWS, head_dim), 0), unit.full((ROWS,), -jnp.inf), unit.full((ROWS,), 0))
            member = lax.div(warpgroup * ROWS, jnp.int32(block_q))
            total, highest, weight = stream.consume(walk, (keys, values), member, visit, carry)
            # Without a key: weight 0 and total 0, so out is 0 and lse is -inf + log2(0) = -inf.
            share = 1 / jnp.where(weight > 0, weight, 1)
            queries[...] = (total * lax.broadcast_in_dim(share, total.shape, [0])).astype(q.dtype)
            lse_tile[...] = (highest + jnp.log2(weight)) * (1 / LOG2E)
            stream.store(exists, [(queries, out_ref.at[rows]), (lse_tile, lse_ref.at[b, h, pl.ds(start, ROWS)])])

        stream.divide(warpgroup, tiling, walk, (keys, values), consumer)

    ring = stream.tiles(tiling.stages, tiling.tile, head_dim, q.dtype)
    return stream.launch(
        kernel,
        (q, k, v, *schedule),
        out_type=(
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((batch, heads, tokens), jnp.float32),
        ),
        scratch=(
            stream.tiles(tiling.consumers, ROWS, head_dim, q.dtype),
            plgpu.SMEM((tiling.consumers, ROWS), jnp.float32),
            plgpu.Barrier(num_barriers=tiling.consumers),
            (ring, ring),
            (stream.Channel.barriers(tiling), stream.Channel.barriers(tiling)),
        ),
        shape=(batch, heads, -(-tokens // tiling.rows)),
        tiling=tiling,
        interpret=interpret,
        name="bsa_forward",
    )


def _online_softmax(unit, queries, keys, values, slot, carry, scale):
    """One tile of keys and values. carry: unnormalised output, highest logit of a row in base 2, sum of its weights."""
    total, highest, weight = carry
    logits = unit.outer(queries, keys.take(slot))
    keys.release(slot)
    shape = logits.shape
    higher = jnp.maximum(highest, logits.max(axis=1) * scale)
    decay = jnp.exp2(highest - higher)
    weights = jnp.exp2(logits * scale - lax.broadcast_in_dim(higher, shape, [0]))
    weight = weight * decay + weights.sum(axis=1)
    total = total * lax.broadcast_in_dim(decay, total.shape, [0])
    total = unit.add_product(total, weights.astype(values.ring.dtype), values.take(slot))
    values.release(slot)
    return total, higher, weight
