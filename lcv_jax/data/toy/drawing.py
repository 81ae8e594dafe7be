"""Draws facts: clips and pictures of any size and length, antialiased, the same bytes from the same arguments."""

from typing import NamedTuple

import numpy as np

from lcv_jax.data.toy.captions import Captions, write_captions
from lcv_jax.data.toy.facts import COLOURS, Facts
from lcv_jax.data.toy.ground import draw_ground
from lcv_jax.data.toy.layout import Path, lay_out
from lcv_jax.data.toy.shapes import signed_distance
from lcv_jax.errors import InputError

SMALLEST_SIDE = 32


class Rendered(NamedTuple):
    """clip: (F, H, W, 3) uint8. captions: by language, "en" and "zh"."""

    clip: np.ndarray
    captions: Captions


def render(facts: Facts, seed: int, size: tuple[int, int], frames: int) -> Rendered:
    """Draws a clip of `frames` frames of `size` (H, W), and writes its captions, both from the same facts.

    The seed decides what the facts leave open: places, sizes, speeds, the pattern's scale, the captions' wording. One
    frame is a picture, captioned without motions. Raises InputError on sides under 32, no frames, seeds below 0, and
    where the ground or, of a video, motions are not told.
    """
    check_size(size, frames)
    if facts.ground is None:
        raise InputError("facts: no ground; a clip needs one to be drawn")
    if frames > 1 and not facts.moving:
        raise InputError(f"facts: objects without motion, but {frames=}; name motions, or draw 1 frame")
    shown = facts if frames > 1 else facts.without_motion()
    clip = np.empty((frames, *size, 3), np.uint8)
    ground = draw_ground(facts.ground, seed, size)
    clip[:] = np.round(ground)
    for each, path in zip(facts.objects, lay_out(facts, seed, size, frames), strict=True):
        _draw(clip, ground, each.shape, COLOURS[each.colour], path)
    return Rendered(clip, write_captions(shown, seed))


def check_size(size: tuple[int, int], frames: int) -> None:
    """Raises InputError unless a clip of `frames` frames of `size` (H, W) can be drawn."""
    if len(size) != 2 or min(size) < SMALLEST_SIDE:
        raise InputError(f"{size=}: expected (height, width), each at least {SMALLEST_SIDE} pixels")
    if frames < 1:
        raise InputError(f"{frames=}: expected at least 1")


def _draw(clip: np.ndarray, ground: np.ndarray, shape: str, colour: tuple[int, int, int], path: Path) -> None:
    """Lays one object over all frames of `clip`, in the window around it that fits its largest size."""
    height, width = clip.shape[1:3]
    side = int(np.ceil(2 * path.radius.max())) + 3
    left = np.floor(path.x - side / 2).astype(int)
    top = np.floor(path.y - side / 2).astype(int)
    steps = np.arange(side)
    dx = (left[:, None] + steps + 0.5 - path.x[:, None])[:, None, :]
    dy = (top[:, None] + steps + 0.5 - path.y[:, None])[:, :, None]
    angle, radius = np.deg2rad(path.angle)[:, None, None], path.radius[:, None, None]
    x = (np.cos(angle) * dx + np.sin(angle) * dy) / radius
    y = (np.cos(angle) * dy - np.sin(angle) * dx) / radius
    cover = np.clip(0.5 - signed_distance(shape, x, y) * radius, 0, 1).astype(np.float32)[..., None]
    for frame, share, x0, y0 in zip(clip, cover, left, top, strict=True):
        rows, columns = slice(max(y0, 0), min(y0 + side, height)), slice(max(x0, 0), min(x0 + side, width))
        part = share[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
        behind = ground[rows, columns]
        drawn = np.round(behind + part * (np.array(colour, np.float32) - behind))
        frame[rows, columns] = np.where(part > 0, drawn, frame[rows, columns])
