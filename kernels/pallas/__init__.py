"""Attention kernels for JAX that know nothing of the rest of the project; one folder per operation."""

from lcv_kernels.pallas.block_sparse_attention import (
    Selection,
    XlaConfig,
    attend_blocks,
    block_means,
    block_order,
    block_sparse_attention,
    from_blocks,
    select_blocks,
    select_by_means,
    to_blocks,
)

__all__ = [
    "Selection",
    "XlaConfig",
    "attend_blocks",
    "block_means",
    "block_order",
    "block_sparse_attention",
    "from_blocks",
    "select_blocks",
    "select_by_means",
    "to_blocks",
]
