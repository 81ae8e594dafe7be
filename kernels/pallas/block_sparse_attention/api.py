"""The public functions; the package says what they compute."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from lcv_kernels.pallas.block_sparse_attention.registry import Call, choose, target_device
from lcv_kernels.pallas.block_sparse_attention.regroup import Shape3, blocks_of, from_blocks, to_blocks
from lcv_kernels.pallas.block_sparse_attention.selection import check_pair, select_blocks

Array = jax.Array


def block_sparse_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    grid_q: Shape3,
    grid_k: Shape3,
    block_q: Shape3,
    block_k: Shape3,
    sparsity: float | None,
    cdf: float | None = None,
    implementation: str | None = None,
) -> Array:
    """Attention of every block of queries to its highest-scored blocks of keys, scaled by 1 / sqrt(d).

    q: (B, N, heads, d) in raster order of grid_q; k, v: (B, K, heads, d) in raster order of grid_k. Grids are (T, H, W)
    and blocks (t, h, w), in tokens. sparsity, cdf: as in `select_blocks`. implementation: as in `attend_blocks`.
    Returns (B, N, heads, d) in raster order and q's dtype.

    Raises ValueError for grids that do not divide into blocks, with the sizes that would, and for whatever the two
    functions below refuse.
    """
    for name, grid, block in (("grid_q", grid_q, block_q), ("grid_k", grid_k, block_k)):
        blocks_of(grid, block, name)
    q, k, v = (
        to_blocks(x, grid, block) for x, grid, block in ((q, grid_q, block_q), *((x, grid_k, block_k) for x in (k, v)))
    )
    tokens = {"block_q": math.prod(block_q), "block_k": math.prod(block_k)}
    selection = select_blocks(q, k, sparsity=sparsity, cdf=cdf, **tokens)
    out = attend_blocks(q, k, v, *selection, implementation=implementation, **tokens)
    return from_blocks(out, grid_q, block_q)


def attend_blocks(
    q: Array,
    k: Array,
    v: Array,
    indices: Array,
    counts: Array,
    *,
    block_q: int,
    block_k: int,
    return_lse: bool = False,
    implementation: str | None = None,
    config: Any = None,
) -> Array | tuple[Array, Array]:
    """Attention of each query block to the key blocks that are listed for it.

    q: (B, N, heads, d) and k, v: (B, K, heads, d) in block order, all float32, bfloat16 or float16. block_q, block_k:
    tokens of a block.
    indices: (B, heads, N / block_q, R) int32, of which the first counts (B, heads, N / block_q) int32 of a row are
    distinct and meant; the others are ignored but lie in range. R may be 0.
    implementation: None | "mosaic_gpu" | "xla" | "reference"; config: its frozen config, None for the best known.

    Returns out (B, N, heads, d) in q's dtype, and with return_lse also the log of the sum of exponentials of the
    scaled logits, (B, heads, N) float32, natural logarithm. Both are differentiable in q, k and v. A row of count 0
    gives 0, -inf and gradients of 0, whatever gradient it is given.

    Raises ValueError for shapes and dtypes that do not fit, for an implementation that is unknown or does not support
    the call, and for a config that is another implementation's.
    """
    check_pair(q, k, block_q, block_k)
    rows = (q.shape[0], q.shape[2], q.shape[1] // block_q)
    if v.shape != k.shape:
        raise ValueError(f"v {v.shape}: expected the shape of k, {k.shape}")
    if not q.dtype == k.dtype == v.dtype or q.dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        found = f"{q.dtype}, {k.dtype} and {v.dtype}"
        raise ValueError(f"q, k and v are {found}: expected float32, bfloat16 or float16, the same for all")
    if indices.ndim != 4 or indices.shape[:3] != rows or counts.shape != rows:
        raise ValueError(
            f"indices {indices.shape} and counts {counts.shape}: expected {(*rows, 'R')} and {rows}, one row per batch "
            "element, head and query block"
        )
    if indices.dtype != jnp.int32 or counts.dtype != jnp.int32:
        raise ValueError(f"indices and counts are {indices.dtype} and {counts.dtype}: expected int32")
    platform, kind = target_device()
    call = Call(platform, kind, str(q.dtype), q.shape[-1], block_q, block_k, k.shape[1], indices.shape[-1])
    attend = choose(call, implementation, config)
    if indices.shape[-1] == 0:
        out, lse = jnp.zeros_like(q), jnp.full((*rows[:2], q.shape[1]), -jnp.inf, jnp.float32)
    else:
        out, lse = attend(q, k, v, indices, counts, block_q=block_q, block_k=block_k, config=config)
    return (out, lse) if return_lse else out
