"""Sizes and frame counts that the model takes, and the nearest ones to what the user has.

Sizes come from tables of aspect ratios (buckets.json beside this file). A table's keys are height / width
as printed text, rounded, and sometimes off from the ratio of their size; the choice is by the key, as in
the official code.
"""

import functools
import importlib.resources
import json
import logging
import math
from collections.abc import Mapping

from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

RESOLUTIONS = ("480p", "720p")
FACTORS = (16, 32, 64, 128, 256)

Buckets = Mapping[str, tuple[int, int]]


def nearest(height: int, width: int, resolution: str, factor: int) -> tuple[int, int]:
    """The (H, W) in pixels of the bucket whose ratio key is closest to height / width; the first one on ties.

    resolution: "480p" or "720p". factor: what both sides divide by, 16, 32, 64, 128 or 256: 16 for generation
    and 64 for refinement, times the larger side of the grid over which context parallelism splits a frame.
    """
    if height < 1 or width < 1:
        raise InputError(f"size {height} x {width}: expected a positive height and width")
    table = buckets(resolution, factor)
    ratio = height / width
    return table[min(table, key=lambda key: abs(float(key) - ratio))]


def buckets(resolution: str, factor: int) -> Buckets:
    """The table of a resolution and factor: ratio key -> (H, W), in the published order."""
    if resolution not in RESOLUTIONS:
        raise InputError(f"resolution {resolution!r} is not known: expected {' or '.join(RESOLUTIONS)}")
    if factor not in FACTORS:
        raise InputError(f"factor {factor!r} is not known: expected one of {', '.join(map(str, FACTORS))}")
    return _tables()[resolution, factor]


@functools.cache
def _tables() -> dict[tuple[str, int], Buckets]:
    data = json.loads(importlib.resources.files("lcv_jax.data").joinpath("buckets.json").read_text("utf-8"))
    return {
        (resolution, factor): {key: (height, width) for key, height, width in table["buckets"]}
        for resolution, tables in data.items()
        for table in tables
        for factor in table["factors"]
    }


def round_frames(frames: int) -> int:
    """The number of frames that the VAE keeps whole, 4 * floor(frames / 4) + 1, with a warning if it differs.

    12 becomes 13 and 16 becomes 17, but 14 and 15 become 13: the official rule, not the nearest number.
    """
    if frames < 1:
        raise InputError(f"{frames} frames: expected at least 1")
    rounded = 4 * (frames // 4) + 1
    if rounded != frames:
        logger.warning("%d frames are not 4 n + 1: %d are made instead", frames, rounded)
    return rounded


def check_size(height: int, width: int, multiple: int) -> None:
    """Raises InputError, which names the nearest that are, unless both sides are multiples of `multiple`."""
    if height < 1 or width < 1 or height % multiple or width % multiple:
        raise InputError(
            f"size {height} x {width}: height and width must be multiples of {multiple}; "
            f"nearest: {_around(height, multiple)} x {_around(width, multiple)}"
        )


def _around(side: int, multiple: int) -> str:
    below, above = side // multiple * multiple, math.ceil(side / multiple) * multiple
    if side < multiple:
        return str(multiple)
    return str(below) if below == above else f"{below} or {above}"
