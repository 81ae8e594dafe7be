"""Co-occurrence by hand, and what is rich and what is poor."""

import numpy as np
import pytest

from lcv_jax.data.texture import co_occurrence, grey, statistics, texture
from lcv_jax.errors import InputError

# Haralick's example: 4 x 4 pixels of 4 levels.
IMAGE = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 2], [2, 2, 3, 3]])
COUNTS = (
    [[4, 2, 1, 0], [2, 4, 0, 0], [1, 0, 6, 1], [0, 0, 1, 2]],  # beside
    [[6, 0, 2, 0], [0, 4, 2, 0], [2, 2, 2, 2], [0, 0, 2, 0]],  # below
    [[2, 1, 3, 0], [1, 2, 1, 0], [3, 1, 0, 2], [0, 0, 2, 0]],  # below, to the right
    [[4, 1, 0, 0], [1, 2, 2, 0], [0, 2, 4, 1], [0, 0, 1, 0]],  # below, to the left
)


def test_pairs_of_neighbours_by_hand():
    for found, counts in zip(co_occurrence(IMAGE, 4), COUNTS, strict=True):
        np.testing.assert_allclose(found, np.array(counts) / np.sum(counts), atol=1e-15)


def test_statistics_by_hand():
    """Of the neighbours beside: 24 pairs, of which 16 are equal, 6 differ by 1 and 2 by 2."""
    found = statistics(np.array(COUNTS[0]) / 24)
    assert found.contrast == pytest.approx((6 * 1 + 2 * 4) / 24)
    assert found.homogeneity == pytest.approx((16 + 6 / 2 + 2 / 5) / 24)
    assert found.energy == pytest.approx(np.sqrt(16 + 4 + 1 + 4 + 16 + 1 + 36 + 1 + 1 + 4) / 24)
    shares = np.array([4, 4, 6, 2, 2, 2, 1, 1, 1, 1]) / 24
    assert found.entropy == pytest.approx(-(shares * np.log2(shares)).sum())
    mean = (7 * 0 + 6 * 1 + 8 * 2 + 3 * 3) / 24
    variance = (7 * 0 + 6 * 1 + 8 * 4 + 3 * 9) / 24 - mean**2
    products = (4 * 1 + 6 * 4 + 2 * 9 + 2 * 6) / 24
    assert found.correlation == pytest.approx((products - mean**2) / variance)


def test_levels_are_equal_steps_of_luminance():
    frame = np.uint8([[[0, 0, 0], [63, 63, 63], [64, 64, 64], [255, 255, 255], [255, 0, 0], [0, 255, 0]]])
    assert grey(frame, 4)[0].tolist() == [0, 0, 1, 3, 1, 2]


@pytest.mark.smoke
def test_flat_clips_are_poor_and_noise_is_rich():
    flat = np.full((5, 32, 48, 3), 90, np.uint8)
    rich = np.random.default_rng(0).integers(0, 256, (5, 256, 256, 1), np.uint8).repeat(3, -1)
    poor = texture(flat)
    assert (poor.contrast, poor.homogeneity, poor.energy, poor.correlation, poor.entropy) == (0, 1, 1, 1, 0)
    found = texture(rich)
    assert found.entropy == pytest.approx(10, abs=0.02)  # 2 log2(32)
    assert found.contrast == pytest.approx((32**2 - 1) / 6, rel=0.02)
    assert abs(found.correlation) < 0.02
    half = np.concatenate([flat[:, :, :24], flat[:, :, 24:] // 2], axis=2)
    assert 0 < texture(half).entropy < 2


@pytest.mark.parametrize("shape", [(5, 32, 48), (1, 1, 8, 3), (1, 8, 8, 1)])
def test_what_is_no_clip_is_refused(shape):
    with pytest.raises(InputError, match=r"expected \(F, H, W, 3\), at least 2 x 2 pixels"):
        texture(np.zeros(shape, np.uint8))
