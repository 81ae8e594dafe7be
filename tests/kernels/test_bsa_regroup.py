"""Raster order and block order: by hand, inverse of each other, and what does not divide says what would."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_kernels.pallas import block_order, from_blocks, to_blocks

sizes = st.tuples(*[st.integers(1, 4)] * 3)


def test_order_by_hand():
    # Frames of 2 rows and 4 columns; blocks of 1 x 2 x 2.
    assert block_order((2, 2, 4), (1, 2, 2)).tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    # Frames are the slowest inside a block as well.
    assert block_order((2, 1, 4), (2, 1, 2)).tolist() == [0, 1, 4, 5, 2, 3, 6, 7]


@given(counts=sizes, block=sizes)
def test_blocks_are_boxes_and_the_way_back_is_exact(counts, block):
    grid = tuple(n * size for n, size in zip(counts, block, strict=True))
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(1, -1, 3)
    blocks = to_blocks(places, grid, block)
    np.testing.assert_array_equal(from_blocks(blocks, grid, block), places)
    np.testing.assert_array_equal(blocks, places[:, block_order(grid, block)])
    boxes = blocks.reshape(math.prod(counts), math.prod(block), 3)
    np.testing.assert_array_equal(boxes.max(1) - boxes.min(1) + 1, np.broadcast_to(block, (len(boxes), 3)))


def test_trailing_axes_and_dtype_are_kept():
    x = jnp.zeros((2, 16, 3, 5), jnp.bfloat16)
    assert to_blocks(x, (2, 2, 4), (1, 2, 2)).shape == x.shape
    assert from_blocks(x, (2, 2, 4), (1, 2, 2)).dtype == x.dtype
    assert to_blocks(x[:, :, 0, 0], (2, 2, 4), (1, 2, 2)).shape == (2, 16)


@pytest.mark.parametrize("regroup", [to_blocks, from_blocks])
@pytest.mark.parametrize(
    ("grid", "block", "match"),
    [
        ((4, 30, 52), (4, 4, 4), r"\(4, 30, 52\) does not divide .*: H 30 is no multiple of 4 \(28 or 32 would be\)\."),
        (
            (3, 8, 10),
            (4, 4, 4),
            r"T 3 is no multiple of 4 \(4 would be\); W 10 is no multiple of 4 \(8 or 12 would be\)",
        ),
        ((4, 4), (4, 4, 4), r"grid is \(4, 4\): expected three positive sizes"),
        ((4, 4, 4), 2, "its block is 2: expected three positive sizes"),
        ((4, 4, 4), (2.0, 2, 2), r"its block is \(2\.0, 2, 2\): expected three positive sizes"),
        ((4, 4, 4), (4, 0, 4), r"its block is \(4, 0, 4\): expected three positive sizes"),
        ((4, 4, 8), (4, 4, 4), r"\(1, 64, 2\) do not fill grid \(4, 4, 8\): expected \(B, 128, \.\.\.\)"),
    ],
)
def test_what_does_not_fit_says_what_would(regroup, grid, block, match):
    with pytest.raises(ValueError, match=match):
        regroup(jnp.zeros((1, 64, 2)), grid, block)
