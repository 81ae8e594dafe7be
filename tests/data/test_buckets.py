"""Buckets against the official choices; frame counts; sizes."""

import json
import logging

import pytest

from lcv_jax.data.buckets import FACTORS, RESOLUTIONS, buckets, check_size, nearest, round_frames
from lcv_jax.errors import InputError


@pytest.fixture(scope="module")
def golden(checkpoint_dir):
    return json.loads((checkpoint_dir.parent / "buckets.json").read_text())


def test_tables_equal_the_official_ones(golden):
    for name, table in golden["lookup"].items():
        resolution, factor = name.split("/")
        ours = [[key, *size] for key, size in buckets(resolution, int(factor)).items()]
        assert ours == golden["tables"][table]
    assert len(golden["lookup"]) == len(RESOLUTIONS) * len(FACTORS)


def test_choices_equal_the_official_ones(golden):
    assert len(golden["cases"]) == 40
    for case in golden["cases"]:
        chosen = nearest(case["height"], case["width"], case["resolution"], case["scale_factor_spatial"])
        assert chosen == (case["out_height"], case["out_width"])


def test_ties_take_the_first():
    # 2.50 lies exactly between the keys 2.00 and 3.00.
    assert nearest(5, 2, "480p", 256) == (512, 256)


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("resolution", RESOLUTIONS)
def test_sides_divide_by_the_factor(resolution, factor):
    for height, width in buckets(resolution, factor).values():
        check_size(height, width, factor)


def test_extreme_ratios_take_the_ends():
    assert nearest(1, 1000, "480p", 16) == (320, 1216)
    assert nearest(1000, 1, "480p", 16) == (1280, 320)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0, 5, "480p", 16), "size 0 x 5: expected a positive"),
        ((5, -1, "480p", 16), "size 5 x -1"),
        ((5, 5, "1080p", 16), "resolution '1080p' is not known: expected 480p or 720p"),
        ((5, 5, "480p", 48), "factor 48 is not known: expected one of 16, 32, 64, 128, 256"),
    ],
)
def test_nearest_refuses(arguments, match):
    with pytest.raises(InputError, match=match):
        nearest(*arguments)


@pytest.mark.parametrize(
    ("frames", "rounded"), [(1, 1), (2, 1), (12, 13), (13, 13), (14, 13), (15, 13), (16, 17), (93, 93)]
)
def test_round_frames(frames, rounded, caplog):
    with caplog.at_level(logging.WARNING):
        assert round_frames(frames) == rounded
    expected = [] if frames == rounded else [f"{frames} frames are not 4 n + 1: {rounded} are made instead"]
    assert caplog.messages == expected


def test_round_frames_refuses():
    with pytest.raises(InputError, match="0 frames: expected at least 1"):
        round_frames(0)


@pytest.mark.parametrize(
    ("size", "nearest_sizes"),
    [
        ((470, 832), "464 or 480 x 832"),
        ((480, 833), "480 x 832 or 848"),
        ((3, -4), "16 x 16"),
        ((0, 16), "16 x 16"),
    ],
)
def test_check_size_names_the_nearest(size, nearest_sizes):
    with pytest.raises(InputError, match=f"multiples of 16; nearest: {nearest_sizes}$"):
        check_size(*size, 16)
    assert check_size(480, 832, 16) is None
