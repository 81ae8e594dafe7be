import numpy as np
import pytest

from lcv_jax.data.upsample import upsampled


def clip(frames, height, width):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def by_hand(x, length, axis):
    """Linear with aligned corners, in float64."""
    place = np.linspace(0, x.shape[axis] - 1, length)
    before = np.minimum(place.astype(int), x.shape[axis] - 1)
    after = np.minimum(before + 1, x.shape[axis] - 1)
    weight = (place - before).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return np.take(x, before, axis) * (1 - weight) + np.take(x, after, axis) * weight


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (1, 2), (3, 3), (3, 6), (5, 10)])
def test_linear_in_time_and_space_with_aligned_corners(frames, count):
    video = clip(frames, 5, 7)
    expected = video.astype(np.float64) / 127.5 - 1
    for axis, length in ((1, 8), (2, 12), (0, count)):
        expected = by_hand(expected, length, axis)
    ours = np.stack(list(upsampled(video, (8, 12), count, range(count))))
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_corners_stay_and_frames_may_repeat():
    video = clip(4, 6, 6)
    first, again, last = upsampled(video, (9, 11), 8, [0, 0, 7])
    np.testing.assert_array_equal(first, again)
    for frame, source in ((first, video[0]), (last, video[-1])):
        np.testing.assert_allclose(frame[[0, -1]][:, [0, -1]], source[[0, -1]][:, [0, -1]] / 127.5 - 1, atol=1e-6)


def test_the_same_size_and_count_changes_nothing():
    video = clip(3, 4, 4)
    np.testing.assert_allclose(np.stack(list(upsampled(video, (4, 4), 3, range(3)))), video / 127.5 - 1, atol=1e-6)
