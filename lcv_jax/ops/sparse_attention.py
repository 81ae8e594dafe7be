"""Block sparse attention as a value that the DiT can be given (SPEC section 3); the kernels are in `lcv_kernels`."""

import dataclasses
import math

import jax

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import Grid, dense_attention, joined
from lcv_kernels.pallas import attend_blocks, block_sparse_attention, select_blocks

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class BlockSparseAttention:
    """Each block of queries attends to the key blocks whose mean keys fit its mean query best; images stay dense.

    block_q, block_k: (t, h, w) tokens. sparsity: share of the key blocks left out; cdf: the other way to choose how
    many are kept; with both, the larger number. implementation: None | "mosaic_gpu" | "xla" | "reference".
    """

    block_q: Grid
    block_k: Grid
    sparsity: float | None
    cdf: float | None = None
    implementation: str | None = None

    @property
    def token_block(self) -> Grid | None:
        """The block order that the DiT keeps its tokens in, so that they are regrouped once and not in every layer;
        None where query and key blocks differ and no one order serves both."""
        return self.block_q if self.block_q == self.block_k else None

    @property
    def parts(self) -> int:
        return 1

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        grid_q: Grid | None = None,
        grid_k: Grid | None = None,
        key_mask: Array | None = None,
    ) -> Array:
        """As in `attention.Attention`, the tokens in the order of `token_block` where there is one and more than one
        frame. Raises InputError for grids that do not divide into blocks, for a key mask and for missing grids."""
        if grid_q is None or grid_k is None or key_mask is not None:
            raise InputError("block sparse attention is for the tokens of a video: give their grids and no key mask")
        if grid_q[0] == 1:
            return dense_attention(q, k, v, grid_q=grid_q, grid_k=grid_k)
        return self.attend(joined(q), joined(k), joined(v), grid_q, grid_k).reshape(q.shape)

    def attend(self, q: Array, k: Array, v: Array, grid_q: Grid, grid_k: Grid) -> Array:
        """The same on the tokens (B, N, heads, d) of more than one frame."""
        chosen = {"sparsity": self.sparsity, "cdf": self.cdf}
        try:
            if self.token_block is None:
                blocks = {"grid_q": grid_q, "grid_k": grid_k, "block_q": self.block_q, "block_k": self.block_k}
                return block_sparse_attention(q, k, v, **blocks, **chosen, implementation=self.implementation)
            tokens = {"block_q": math.prod(self.block_q), "block_k": math.prod(self.block_k)}
            selection = select_blocks(q, k, **chosen, **tokens)
            return attend_blocks(q, k, v, *selection, **tokens, implementation=self.implementation)
        except ValueError as error:
            raise InputError(f"block sparse attention: {error}") from error
