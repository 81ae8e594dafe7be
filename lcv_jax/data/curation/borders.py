"""Black borders of a source: letterbox, pillarbox or both, found in what stays black over the whole source.

A side is cut off where its rows or columns never show anything, up to an edge that is straight: behind a border the
picture begins along all of its side at once, while the sky of a night shot ends in a skyline. Frames at full
resolution, spread over the source, say where the edge is; small ones, all of them, whether anything ever shows outside.
"""

import dataclasses

import numpy as np

from lcv_jax.errors import InputError

Crop = tuple[int, int, int, int]
"""x, y, width, height in displayed pixels, all even."""

_STRAIGHT_WITHIN = 4  # pixels
_STRAIGHT = 0.5
_BLEED = 6  # pixels; at CRF 28, 3 were seen
_FEW = 0.1  # share of a row that an encoder lets into the border
_BLUR = 2  # rows of a small frame next to an edge, which mix what lies on both sides


@dataclasses.dataclass(frozen=True)
class BorderSettings:
    """black: the luminance of 255 up to which a pixel counts as black. least: shares of the width and of the height
    that must be left, or else nothing is cut off: then the source is dark."""

    black: int = 24
    least: float = 0.25

    def __post_init__(self):
        if not 0 <= self.black < 255:
            raise InputError(f"shots.borders, black={self.black}: expected a level of 0 to 254")
        if not 0 < self.least <= 1:
            raise InputError(f"shots.borders, least={self.least}: expected a share above 0, up to 1")


class Brightest:
    """Each pixel's highest luminance so far. Memory is that of a frame."""

    def __init__(self):
        self.seen: np.ndarray | None = None

    def take(self, luminance: np.ndarray) -> None:
        """luminance: (H, W) uint8."""
        self.seen = luminance.copy() if self.seen is None else np.maximum(self.seen, luminance, out=self.seen)


def crop(large: np.ndarray, small: np.ndarray, settings: BorderSettings) -> Crop | None:
    """What is no border; the whole picture, but for odd rows and columns, where there is none. None: nothing is seen.

    large: (H, W) uint8, the highest luminance of each pixel over frames spread over the source; small: (h, w) uint8,
    that over all frames, of a smaller size.
    """
    shown = large > settings.black
    if not shown.any():
        return None
    height, width = shown.shape
    rows, columns = _extent(shown.any(1)), _extent(shown.any(0))
    faint = small > settings.black
    rows = _with_intruders(rows, faint.any(1), height)
    columns = _with_intruders(columns, faint.any(0), width)
    inside = shown[rows[0] : rows[1], columns[0] : columns[1]]
    top, bottom = _edge(inside), _edge(inside[::-1])
    left, right = _edge(inside.T), _edge(inside.T[::-1])
    top, bottom = (0 if top is None else rows[0] + top), (height if bottom is None else rows[1] - bottom)
    left, right = (0 if left is None else columns[0] + left), (width if right is None else columns[1] - right)
    x, right, y, bottom = left + left % 2, right - right % 2, top + top % 2, bottom - bottom % 2
    if right - x < settings.least * width or bottom - y < settings.least * height:
        x, y, right, bottom = 0, 0, width - width % 2, height - height % 2
    return x, y, right - x, bottom - y


def _extent(shown: np.ndarray) -> tuple[int, int]:
    """From the first to behind the last of the rows that show something."""
    return int(np.argmax(shown)), len(shown) - int(np.argmax(shown[::-1]))


def _with_intruders(found: tuple[int, int], faint: np.ndarray, length: int) -> tuple[int, int]:
    """Farther out, where small frames show something at a distance from the edges that were found."""
    if not faint.any():
        return found
    scale = length / len(faint)
    first, behind = (round(edge * scale) for edge in _extent(faint))
    start = first if first < found[0] - _BLUR * scale else found[0]
    end = behind if behind > found[1] + _BLUR * scale else found[1]
    return start, end


def _edge(shown: np.ndarray) -> int | None:
    """How many rows behind the first the picture begins: 0, or more where the encoder lets a few pixels of the picture
    into the border. None where it does not begin along a straight line."""
    share = shown[:_BLEED].mean(1)
    begins = int(np.argmax(share >= _STRAIGHT))
    if share[begins] >= _STRAIGHT and (share[:begins] <= _FEW).all():
        return begins
    return 0 if shown[:_STRAIGHT_WITHIN].any(0).mean() >= _STRAIGHT else None
