"""Block sparse attention: every block of queries attends to the few key blocks that matter most to it.

The operation (LongCat-Video, arXiv 2510.22200, section "block sparse attention"). Tokens of a video stand on a grid
(T, H, W); a block is a box of t x h x w neighbours. Queries and keys are averaged per block, the product of two
averages is the score of a pair of blocks, and each query block keeps its highest-scored key blocks. Softmax attention
then runs over exactly the tokens of those blocks. With a sparsity of 0.9375 one key block in sixteen is kept.

Which blocks are kept, per batch element, head and query block, Nk being the number of key blocks:

- sparsity: int((1 - sparsity) * Nk) blocks in double precision, cut off, not rounded. It may be 0.
- cdf: blocks in descending order of softmax(score / sqrt(d)) while their cumulative sum is at most cdf. The block that
  crosses the threshold is not kept, so it may be 0 as well.
- both: whichever count is larger.

Nothing is kept by force: a row that keeps nothing gives 0, a log-sum-exp of -inf, and gradients of 0. The choice
carries no gradient; queries, keys and values do, as if it had been given.

Layout. q is (B, N, heads, d), k and v are (B, K, heads, d); N and K may differ, and so may the shapes of query and key
blocks. In raster order a token's place is (t * H + h) * W + w. In block order blocks stand one after the other (T, H, W
over the grid of blocks), and inside a block tokens do (t, h, w). Softmax and scores are float32, the products take q's
dtype and add up in float32, the result has q's dtype.

Levels.

- `block_sparse_attention`: raster order in and out; regroups, selects, attends.
- `to_blocks`, `from_blocks`, `block_order`: for those who regroup once for many layers.
- `select_blocks`, `attend_blocks`: on tokens in block order. A selection may come from elsewhere (another rank's
  pooled keys), and the log-sum-exp merges partial results: both outputs are differentiable.
- `block_means`, `select_by_means`: the two halves of `select_blocks`, for those whose blocks lie on several devices.

Everything is fixed in shape, so it all lives inside jit, and is safe under vmap, remat, scan and shard_map. Under a
mesh that cuts tokens, call it inside shard_map; batch and heads may be cut either way.

Implementations, of `implementation=`; None takes the first that supports the call and logs once which one, and why not
those before it:

- "mosaic_gpu": kernels for Hopper GPUs. They have not run on one yet, so they are taken only when named.
- "xla": any backend. Gathers the selected blocks, some query blocks at a time, forward and backward.
- "reference": a dense softmax under a mask, N x K per head. The oracle of the tests; never taken by itself.

How an implementation cuts its work is a frozen config (`XlaConfig`): one that is given is used, else what was measured
for this size, else a rule.
"""

from lcv_kernels.pallas.block_sparse_attention.api import attend_blocks, block_sparse_attention
from lcv_kernels.pallas.block_sparse_attention.regroup import block_order, from_blocks, to_blocks
from lcv_kernels.pallas.block_sparse_attention.selection import Selection, block_means, select_blocks, select_by_means
from lcv_kernels.pallas.block_sparse_attention.xla import XlaConfig

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
