"""A mark that stays where it is while the picture changes behind it: a logo, a watermark, a caption of the channel.

Seen over a whole source, with its many shots, edges of the picture average out and those of a mark stay. Where the
picture itself does not change, as before a static camera, nothing can be told, and nothing is.
"""

import dataclasses

import numpy as np

from lcv_jax.data.curation.borders import Crop
from lcv_jax.errors import InputError

Box = tuple[float, float, float, float]
"""x, y, width, height as shares of the crop."""

SIDE = 640
"""The longer side of the frames that are looked at."""

_MOST = 48  # frames, for the memory of their gradients
_OFTEN = 0.85  # share of frames in which an edge that stays is seen
_ONE_WAY = 0.5  # share of a patch's edges that may point one way: those of a mark go around it


@dataclasses.dataclass(frozen=True)
class OverlaySettings:
    """edge: the gradient in levels of 255 a pixel that stays; change: the standard deviation over time, in levels,
    that the picture around it must have; least, most: share of the crop that the mark's box takes; margin: pixels of
    640 at the crop's edges, where nothing is looked for; looks: how often the picture must have become another one."""

    edge: float = 4.0
    change: float = 20.0
    least: float = 0.0003
    most: float = 0.3
    margin: int = 3
    looks: int = 8

    def __post_init__(self):
        for name in ("edge", "change", "margin", "looks"):
            if not getattr(self, name) > 0:
                raise InputError(f"shots.overlay, {name}={getattr(self, name)}: expected a number above 0")
        if not 0 < self.least < self.most <= 1:
            raise InputError(f"shots.overlay, least={self.least}, most={self.most}: expected shares, least first")


def overlay(frames: np.ndarray, crop: Crop, size: tuple[int, int], settings: OverlaySettings) -> Box | None:
    """The box of the largest mark, if there is one.

    frames: (F, h, w) uint8 luminance, spread over the source, of displays of `size` (H, W); crop: in its pixels.
    """
    import cv2

    frames = _cropped(frames[:: -(-len(frames) // _MOST)], crop, size)
    if _looks(frames, settings.change) < settings.looks:
        return None
    height, width = frames.shape[1:]
    gradient, often = _staying(frames)
    stays = (np.hypot(*gradient) > settings.edge) & (often >= _OFTEN)
    stays &= cv2.blur(frames.std(0, dtype=np.float32), (31, 31)) > settings.change
    margin = settings.margin
    stays[:margin], stays[-margin:], stays[:, :margin], stays[:, -margin:] = False, False, False, False
    joined = cv2.morphologyEx(stays.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 15), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    edges = np.bincount(labels[stays], minlength=count)
    for label in np.argsort(-edges):
        x, y, w, h = (int(value) for value in stats[label, :4])
        if label == 0 or not settings.least <= w * h / (width * height) <= settings.most:
            continue
        across, down = (part[stays & (labels == label)] for part in gradient)
        if np.hypot(across.sum(), down.sum()) <= _ONE_WAY * np.hypot(across, down).sum():
            return x / width, y / height, w / width, h / height
    return None


def _looks(frames: np.ndarray, change: float) -> int:
    """How many of the frames differ from the one of them before by more than `change` levels on average; and the first.

    What is seen for long, or again and again in a static shot, is one look."""
    count, last = 0, None
    for frame in frames:
        thin = frame[::4, ::4].astype(np.int16)
        if last is None or np.abs(thin - last).mean() > change:
            count, last = count + 1, thin
    return count


def _staying(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The median over time of the gradient across and down, (2, h, w) float32 in levels a pixel, and the share of
    frames whose own has at least a quarter of it, (h, w)."""
    import cv2

    found = np.stack(
        [[cv2.Sobel(frame, cv2.CV_16S, *way) for frame in frames] for way in ((1, 0), (0, 1))]
    )  # (2, F, h, w), of 8 times the level a pixel
    median = np.median(found, 1).astype(np.float32)
    strength = (median**2).sum(0)
    often = np.zeros(frames.shape[1:], np.float32)
    for across, down in found.swapaxes(0, 1):
        often += across * median[0] + down * median[1] > strength / 4
    return median / 8, often / len(frames)


def _cropped(frames: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    across, down = frames.shape[2] / size[1], frames.shape[1] / size[0]
    x, y, width, height = crop
    rows = slice(round(y * down), max(round((y + height) * down), round(y * down) + 1))
    return frames[:, rows, round(x * across) : max(round((x + width) * across), round(x * across) + 1)]
