"""Black borders and marks that stay: known ones are found, and none where there are none."""

import numpy as np
import pytest

from footage import bordered, marked, scene
from lcv_jax.data.curation.borders import BorderSettings, Brightest, crop
from lcv_jax.data.curation.overlay import OverlaySettings, overlay
from lcv_jax.data.curation.scan import Spread, scan
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError


def found(path):
    seen = scan(path, 25, [])
    return crop(seen.large, seen.small, BorderSettings())


@pytest.mark.parametrize("crf", [18, 28])
@pytest.mark.parametrize(
    "border",
    [
        {},
        {"top": 24, "bottom": 24},
        {"left": 40, "right": 40},
        {"top": 12, "bottom": 14, "left": 33, "right": 35},
        {"bottom": 30},
    ],
)
def test_borders_are_exact(tmp_path, border, crf):
    frames = np.concatenate([scene(seed, 20, 120, 160) for seed in range(3)])
    write_video(tmp_path / "x.mp4", bordered(frames, **border), 25, crf=crf)
    x, y, width, height = found(tmp_path / "x.mp4")
    left, top = border.get("left", 0), border.get("top", 0)
    edges = np.array([x, y, x + width, y + height])
    assert np.abs(edges - [left, top, left + 160, top + 120]).max() <= 2
    assert x % 2 == y % 2 == width % 2 == height % 2 == 0


def test_what_shows_once_is_no_border(tmp_path):
    """One frame in the whole video, which is not among those that are looked at closely."""
    frames = bordered(scene(0, 60, 80, 160), top=32, bottom=32)
    frames[31, 12:20, 30:60] = 200
    assert Spread().wants(31) is False
    write_video(tmp_path / "x.mp4", frames, 25)
    x, y, width, height = found(tmp_path / "x.mp4")
    assert (x, width) == (0, 160)
    assert y <= 12
    assert abs(y + height - 112) <= 2


def night(count, height=120, width=160):
    """A black sky over roofs of different heights, with lights in them."""
    rng = np.random.default_rng(3)
    frames = scene(5, count, height, width)
    frames = (frames * 0.3).astype(np.uint8)
    for column, roof in enumerate(rng.integers(30, 90, 16)):
        frames[:, :roof, 10 * column : 10 * column + 10] = 4
    return frames


def test_a_black_sky_is_no_border(tmp_path):
    write_video(tmp_path / "x.mp4", night(40), 25)
    assert found(tmp_path / "x.mp4") == (0, 0, 160, 120)
    write_video(tmp_path / "y.mp4", bordered(night(40), left=30, right=30), 25)
    _, y, _, height = found(tmp_path / "y.mp4")
    assert (y, height) == (0, 120)


def test_dark_shots_and_black_frames_take_nothing_from_others(tmp_path):
    lit = scene(1, 30, 120, 160)
    dark = (scene(2, 30, 120, 160) * 0.08).astype(np.uint8)
    dark[:, 50:60, 70:80] = 220
    frames = np.concatenate([np.zeros_like(lit), dark, lit])
    write_video(tmp_path / "x.mp4", bordered(frames, top=20, bottom=20), 25)
    x, y, width, height = found(tmp_path / "x.mp4")
    assert (x, width) == (0, 160)
    assert np.abs(np.array([y, y + height]) - [20, 140]).max() <= 2


def test_little_that_is_left_is_no_picture():
    large = np.zeros((120, 160), np.uint8)
    assert crop(large, large, BorderSettings()) is None
    large[50:70, 60:100] = 200
    assert crop(large, large[::4, ::4], BorderSettings()) == (0, 0, 160, 120)
    assert crop(large, large[::4, ::4], BorderSettings(least=0.1)) == (60, 50, 40, 20)


def test_odd_sides_become_even():
    large = np.full((121, 161), 200, np.uint8)
    assert crop(large, large, BorderSettings()) == (0, 0, 160, 120)
    large[:11], large[:, -5:] = 0, 0
    assert crop(large, large, BorderSettings()) == (0, 12, 156, 108)


def test_what_an_encoder_lets_into_a_border_is_no_picture():
    large = np.zeros((120, 160), np.uint8)
    large[30:90] = 200
    large[27:30, 40:44], large[90:92, 70:76] = 30, 30
    assert crop(large, np.zeros((30, 40), np.uint8), BorderSettings()) == (0, 30, 160, 60)
    large[27:30, :40] = 30
    assert crop(large, np.zeros((30, 40), np.uint8), BorderSettings()) == (0, 28, 160, 62)


def test_memory_is_one_frame():
    seen = Brightest()
    for level in (3, 9, 5):
        seen.take(np.full((4, 6), level, np.uint8))
    assert (seen.seen == 9).all()


def test_frames_are_spread_over_any_length():
    for count in (1, 50, 400, 10_000):
        spread, numbers = Spread(few=8, step=4), []
        for number in range(count):
            if spread.wants(number):
                spread.keep(np.array(number))
        numbers = [int(kept) for kept in spread.kept]
        assert len(numbers) <= 16
        steps = np.diff(numbers)
        assert len(set(steps.tolist())) <= 1
        if count >= 400:
            assert len(numbers) >= 8
            assert numbers[-1] >= count - 2 * steps[0]


def test_a_mark_is_found_where_it_is(tmp_path):
    frames = np.concatenate([scene(seed, 16, 180, 320, speed=3) for seed in range(10)])
    write_video(tmp_path / "x.mp4", bordered(marked(frames, 250, 12, 48, 20), top=30, bottom=30), 25)
    seen = scan(tmp_path / "x.mp4", 25, [])
    picture = crop(seen.large, seen.small, BorderSettings())
    x, y, width, height = overlay(seen.spread, picture, seen.size, OverlaySettings())
    assert np.array([x, x + width]) * 320 == pytest.approx([250, 298], abs=8)
    assert np.array([y, y + height]) * 180 == pytest.approx([12, 32], abs=8)


def test_no_mark_where_there_is_none(tmp_path):
    frames = np.concatenate([scene(seed, 16, 180, 320, speed=3) for seed in range(10)])
    write_video(tmp_path / "x.mp4", bordered(frames, left=20, right=20), 25)
    still = np.repeat(marked(scene(0, 1, 180, 320), 250, 12, 48, 20), 60, 0)
    write_video(tmp_path / "y.mp4", still, 25)
    for name in ("x.mp4", "y.mp4"):
        seen = scan(tmp_path / name, 25, [])
        picture = crop(seen.large, seen.small, BorderSettings())
        assert overlay(seen.spread, picture, seen.size, OverlaySettings()) is None
    assert overlay(seen.spread[:3], picture, seen.size, OverlaySettings()) is None


@pytest.mark.parametrize(
    ("kind", "wrong", "match"),
    [
        (BorderSettings, {"black": 255}, "black=255: expected a level of 0 to 254"),
        (BorderSettings, {"least": 0}, "least=0: expected a share above 0"),
        (OverlaySettings, {"edge": 0}, "edge=0: expected a number above 0"),
        (OverlaySettings, {"least": 0.5}, r"least=0\.5, most=0\.3: expected shares"),
    ],
)
def test_settings_are_checked(kind, wrong, match):
    with pytest.raises(InputError, match=match):
        kind(**wrong)
