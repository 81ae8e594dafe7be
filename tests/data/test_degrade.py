"""Degradations do what they are called, repeat, and are drawn as they are told to be."""

import collections
import dataclasses

import numpy as np
import pytest

from lcv_jax.data.degrade import FILTERS, H264, Blur, Degrading, Jpeg, Noise, Shrink, degraded
from lcv_jax.data.toy import render, sample
from lcv_jax.errors import InputError

EACH = (Blur(1.0), Shrink(1.5, "lanczos"), Noise(5.0, 3, 7), Jpeg(60), H264(30))


@pytest.fixture(scope="module")
def clip():
    return render(sample(1), 1, (48, 64), 5)[0]


def edges(frames) -> float:
    """Mean squared difference of neighbours."""
    x = frames.astype(float)
    return np.square(np.diff(x, axis=1)).mean() + np.square(np.diff(x, axis=2)).mean()


@pytest.mark.smoke
@pytest.mark.parametrize("change", EACH, ids=lambda each: type(each).__name__)
def test_the_same_shape_other_pixels_and_always_the_same(clip, change):
    before = clip.copy()
    out = change(clip)
    assert (out.shape, out.dtype) == (clip.shape, np.uint8)
    assert 0.5 < np.abs(out.astype(float) - clip).mean() < 12
    np.testing.assert_array_equal(change(clip), out)
    np.testing.assert_array_equal(clip, before)


def test_more_is_worse(clip):
    def error(change):
        return np.square(change(clip).astype(float) - clip).mean()

    assert error(Blur(0.4)) < error(Blur(1.5))
    assert error(Shrink(1.2, "box")) < error(Shrink(2.5, "box"))
    assert error(Jpeg(90)) < error(Jpeg(30))
    assert error(H264(18)) < error(H264(45))
    for change in (Blur(1.0), Shrink(2.0, "bicubic")):
        assert edges(change(clip)) < 0.8 * edges(clip)


def test_noise_is_normal_and_new_in_every_frame():
    grey = np.full((4, 64, 64, 3), 128, np.uint8)
    coloured = Noise(4.0, 3, 0)(grey).astype(float) - 128
    assert coloured.std() == pytest.approx(np.sqrt(16 + 1 / 12), rel=0.02)  # and of rounding
    assert abs(coloured.mean()) < 0.1
    assert abs(np.corrcoef(coloured[0].ravel(), coloured[1].ravel())[0, 1]) < 0.05
    plain = Noise(4.0, 1, 0)(grey)
    np.testing.assert_array_equal(plain[..., 0], plain[..., 2])
    assert (Noise(50.0, 3, 0)(grey * 2 - 1) == 255).mean() > 0.4  # clipped, not wrapped


def test_a_stream_keeps_all_frames_in_order():
    frames = np.stack([np.full((16, 32, 3), 10 * n, np.uint8) for n in range(17)])
    out = H264(20)(frames)
    assert out.shape == frames.shape
    np.testing.assert_allclose(out.mean((1, 2, 3)), frames.mean((1, 2, 3)), atol=4)
    with pytest.raises(InputError, match="of frames of 15 x 32: expected even sides"):
        H264(20)(frames[:, :15])


def test_compositions_are_drawn_within_their_ranges():
    rng, how = np.random.default_rng(0), Degrading(chance=0.5)
    counts, values = collections.Counter(), collections.defaultdict(list)
    for _ in range(800):
        made = how.draw(rng)
        names = [type(each).__name__ for each in made]
        assert names == sorted(names, key=["Blur", "Shrink", "Noise", "Jpeg", "H264"].index)
        counts.update(names)
        for each in made:
            for name, value in dataclasses.asdict(each).items():
                values[f"{type(each).__name__}.{name}"].append(value)
    expected = {"Blur": 400, "Shrink": 400, "Noise": 400, "Jpeg": 200, "H264": 200}
    assert all(abs(counts[name] - count) < 60 for name, count in expected.items())
    ranges = {"Blur.sigma": how.blur, "Shrink.factor": how.shrink, "Noise.sigma": how.noise}
    for name, (low, high) in (ranges | {"Jpeg.quality": how.quality, "H264.crf": how.crf}).items():
        assert low <= min(values[name]) < low + 0.1 * (high - low) + 1
        assert high - 0.1 * (high - low) - 1 < max(values[name]) <= high
    assert set(values["Shrink.filter"]) == set(FILTERS)
    assert set(values["Noise.channels"]) == {1, 3}
    assert len(set(values["Noise.seed"])) == counts["Noise"]


def test_one_after_the_other(clip):
    np.testing.assert_array_equal(degraded(clip, EACH[:2]), EACH[1](EACH[0](clip)))
    assert degraded(clip, Degrading(chance=0).draw(np.random.default_rng(0))) is clip
    assert len(Degrading(chance=1).draw(np.random.default_rng(0))) == 4


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"chance": 1.5}, "degrading, chance=1.5: expected a number from 0 to 1"),
        ({"blur": (2.0, 1.0)}, r"degrading, blur=\(2.0, 1.0\): expected two numbers, the smaller first, from 0$"),
        ({"shrink": (0.5, 1.0)}, "degrading, shrink=.*from 1$"),
        ({"quality": (50, 101)}, "degrading, quality=.*from 1 to 100"),
        ({"crf": (-1, 20)}, "degrading, crf=.*from 0 to 51"),
        ({"noise": (0.0, float("nan"))}, "degrading, noise="),
    ],
)
def test_bad_ranges_are_refused(given, match):
    with pytest.raises(InputError, match=match):
        Degrading(**given)
