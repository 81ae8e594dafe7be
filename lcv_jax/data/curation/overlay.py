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


@dataclasses.dataclass(frozen=True)
class OverlaySettings:
    """edge: the gradient in levels of 255 a pixel that stays; change: the standard deviation over time, in levels,
    that the picture around it must have; least, most: share of the crop that the mark's box takes; margin: pixels of
    640 at the crop's edges, where nothing is looked for; frames: fewest that say anything."""

    edge: float = 6.0
    change: float = 20.0
    least: float = 0.0003
    most: float = 0.3
    margin: int = 3
    frames: int = 8

    def __post_init__(self):
        for name in ("edge", "change", "margin", "frames"):
            if not getattr(self, name) > 0:
                raise InputError(f"shots.overlay, {name}={getattr(self, name)}: expected a number above 0")
        if not 0 < self.least < self.most <= 1:
            raise InputError(f"shots.overlay, least={self.least}, most={self.most}: expected shares, least first")


def overlay(frames: np.ndarray, crop: Crop, size: tuple[int, int], settings: OverlaySettings) -> Box | None:
    """The box of the largest mark, if there is one.

    frames: (F, h, w) uint8 luminance, spread over the source, of displays of `size` (H, W); crop: in its pixels.
    """
    import cv2

    if len(frames) < settings.frames:
        return None
    frames = _cropped(frames, crop, size)
    height, width = frames.shape[1:]
    across = np.median([cv2.Sobel(frame, cv2.CV_16S, 1, 0, scale=1) for frame in frames], 0)
    down = np.median([cv2.Sobel(frame, cv2.CV_16S, 0, 1, scale=1) for frame in frames], 0)
    stays = np.hypot(across, down) / 4 > settings.edge
    changes = cv2.blur(frames.std(0, dtype=np.float32), (31, 31)) > settings.change
    stays &= changes
    margin = settings.margin
    stays[:margin], stays[-margin:], stays[:, :margin], stays[:, -margin:] = False, False, False, False
    joined = cv2.morphologyEx(stays.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 15), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(joined)
    edges = np.bincount(labels[stays], minlength=count)
    for label in np.argsort(-edges):
        x, y, w, h = (int(value) for value in stats[label, :4])
        share = w * h / (width * height)
        if label and edges[label] and settings.least <= share <= settings.most:
            return x / width, y / height, w / width, h / height
    return None


def _cropped(frames: np.ndarray, crop: Crop, size: tuple[int, int]) -> np.ndarray:
    across, down = frames.shape[2] / size[1], frames.shape[1] / size[0]
    x, y, width, height = crop
    rows = slice(round(y * down), max(round((y + height) * down), round(y * down) + 1))
    return frames[:, rows, round(x * across) : max(round((x + width) * across), round(x * across) + 1)]
