"""What the XLA form costs at a real size, read from the compiled program: nothing is run."""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from lcv_jax.parallel.hlo import count_flops
from lcv_kernels.pallas import attend_blocks, block_sparse_attention

# 448 x 896 pixels, 93 frames.
GRID, BLOCK, HEADS, CHANNELS, SPARSITY = (24, 28, 56), (4, 4, 4), 32, 128, 0.9375
TOKENS = math.prod(GRID)
SELECTED = 36  # of 588 blocks


def with_gradients(attend):
    def run(q, k, v, g):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(g)

    return run


def test_flops_and_memory_at_37632_tokens():
    """Seven products of the selected pairs, two forward and five backward; temporaries of a few inputs' size, where
    the logits of dense attention would take 300 of them.
    """
    grids = {"grid_q": GRID, "grid_k": GRID, "block_q": BLOCK, "block_k": BLOCK}
    attend = functools.partial(block_sparse_attention, **grids, sparsity=SPARSITY, implementation="xla")
    x = jax.ShapeDtypeStruct((1, TOKENS, HEADS, CHANNELS), jnp.float32)
    program = jax.jit(with_gradients(attend)).lower(x, x, x, x).compile()
    product = 2 * TOKENS * SELECTED * 64 * CHANNELS * HEADS
    assert 7 * product <= count_flops(program).total <= 7 * 1.01 * product
    # Regrouped and transposed copies of the inputs and the gradients, and one chunk.
    assert program.memory_analysis().temp_size_in_bytes <= 8 * math.prod(x.shape) * x.dtype.itemsize


@pytest.mark.parametrize("selected", [36, 588])
def test_long_rows_are_taken_in_slices(selected):
    """Keeping every block takes no more memory than keeping one in sixteen, up to the size of a slice."""
    q = jax.ShapeDtypeStruct((1, TOKENS, 2, CHANNELS), jnp.float32)
    indices = jax.ShapeDtypeStruct((1, 2, 588, selected), jnp.int32)
    counts = jax.ShapeDtypeStruct((1, 2, 588), jnp.int32)
    attend = functools.partial(attend_blocks, block_q=64, block_k=64, implementation="xla")
    program = jax.jit(attend).lower(q, q, q, indices, counts).compile()
    inputs = 3 * math.prod(q.shape) * q.dtype.itemsize
    assert program.memory_analysis().temp_size_in_bytes <= inputs + (1 << 26)
