"""Finds the objects of each frame: saturated spots on a ground that is less so.

Everything is measured from the pixels. The ground's colour and its spread are the clip's own; where an object ends is
decided by the direction in colour that tells it best from that ground (Fisher's linear discriminant), so a pattern of
light and dark does not blur the outline.
"""

import dataclasses

import numpy as np
import scipy.ndimage

from lcv_jax.data.toy.facts import COLOURS

MOST_FRAMES = 17
"""Longer clips are looked at in so many frames, evenly spaced; the fastest turn stays unambiguous."""
WORKING_SIDE = 48
"""Larger pictures are averaged down until the short side is less than twice this."""
GRID = 24
REACH = 1.25
"""A spot's portrait is a square of GRID x GRID samples that reaches so many roots of its area from its centre."""
_SMALLEST = 0.005  # area, in squared short sides
_HALO = 0.05  # how far beyond its certain pixels a spot's soft edge is followed, in short sides
_NOISE = 5.0  # levels; keeps the spread of a plain ground from being 0


@dataclasses.dataclass(frozen=True)
class Spot:
    """One object in one frame. frame: number among those looked at. x, y: centre of mass, and area, in short sides.
    colour: (3,) RGB. portrait: (GRID, GRID) how much of each sample is covered, 0 to 1.
    """

    frame: int
    x: float
    y: float
    area: float
    colour: np.ndarray
    portrait: np.ndarray


@dataclasses.dataclass(frozen=True)
class Segmented:
    """moments: (F,) when the frames looked at are, from 0 to 1. spots: of all frames, in order. ground: (H, W, 3) the
    mean of what was never covered, NaN where something always was.
    """

    moments: np.ndarray
    spots: tuple[Spot, ...]
    ground: np.ndarray


def segment(frames: np.ndarray) -> Segmented:
    """The spots of a clip (F, H, W, 3) uint8."""
    chosen = np.unique(np.round(np.linspace(0, len(frames) - 1, min(len(frames), MOST_FRAMES))).astype(int))
    pixels = _shrunk(frames[chosen])
    short = min(pixels.shape[1:3])
    cover = _saturation_cover(pixels)
    free = ~scipy.ndimage.binary_dilation(cover > 0.3, structure=_WITHIN_A_FRAME, iterations=2)
    samples = pixels[free]
    if len(samples) < 16:
        return Segmented(_moments(chosen), (), np.full(pixels.shape[1:], np.nan, np.float32))
    ground = samples.mean(axis=0)
    spread = np.cov(samples[:: 1 + len(samples) // 20000], rowvar=False) + _NOISE**2 * np.eye(3)
    labels, _ = scipy.ndimage.label(cover > 0.5, structure=_WITHIN_A_FRAME)
    labels[np.bincount(labels.ravel())[labels] < _SMALLEST * short**2] = 0
    halo = max(round(_HALO * short), 2)
    near = np.where(labels > 0, labels, scipy.ndimage.maximum_filter(labels, (1, 2 * halo + 1, 2 * halo + 1)))
    spots = []
    for label, place in enumerate(scipy.ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        frame, rows, columns = place[0].start, _widened(place[1], halo), _widened(place[2], halo)
        window = (frame, rows, columns)
        sure = np.where(labels[window] == label, cover[window], 0)
        core = sure >= np.median(sure[sure > 0])
        colour = np.median(pixels[window][core], axis=0)
        weights = np.linalg.solve(spread, colour - ground)
        share = (pixels[window] - ground) @ (weights / max((colour - ground) @ weights, 1e-6))
        share = np.clip(share, 0, 1) * (near[window] == label)
        spots.append(_measured(frame, share, (rows.start, columns.start), short, colour))
    return Segmented(_moments(chosen), tuple(spots), _uncovered_mean(pixels, free))


_WITHIN_A_FRAME = np.array([np.zeros((3, 3)), [[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.zeros((3, 3))], bool)


def _moments(chosen: np.ndarray) -> np.ndarray:
    return chosen / max(chosen[-1], 1)


def _shrunk(frames: np.ndarray) -> np.ndarray:
    """Means of blocks of pixels, float32; rows and columns that fill no block are left out."""
    height, width = frames.shape[1:3]
    factor = max(min(height, width) // WORKING_SIDE, 1)
    height, width = height // factor, width // factor
    kept = frames[:, : height * factor, : width * factor].astype(np.float32)
    rows = sum(kept[:, i::factor] for i in range(factor))
    return sum(rows[:, :, i::factor] for i in range(factor)) / np.float32(factor**2)


def _chroma(colour: np.ndarray) -> np.ndarray:
    """What is left of RGB when its brightness is taken away."""
    return colour - colour.mean(axis=-1, keepdims=True)


def _saturation_cover(pixels: np.ndarray) -> np.ndarray:
    """How much of each pixel is an object, judged by chroma alone, (F, H, W): the way from the ground's, which most
    pixels have, towards that of the colour in whose direction it lies.
    """
    chroma = _chroma(pixels)
    ground = np.median(chroma.reshape(-1, 3)[:: 1 + chroma.size // 60000], axis=0)
    ways = _chroma(np.array(list(COLOURS.values()), np.float32)) - ground  # (colours, 3)
    lengths = np.linalg.norm(ways, axis=-1)
    along = (chroma - ground) @ (ways / lengths[:, None]).T.astype(np.float32)
    nearest = along.argmax(axis=-1)
    return np.take_along_axis(along, nearest[..., None], -1)[..., 0] / lengths[nearest]


def _widened(part: slice, by: int) -> slice:
    return slice(max(part.start - by, 0), part.stop + by)


def _measured(frame: int, share: np.ndarray, corner: tuple[int, int], short: int, colour: np.ndarray) -> Spot:
    """The spot that covers `share` (h, w) of the pixels of a window whose first one is `corner` (row, column)."""
    area = float(share.sum())
    middle, steps = [], np.linspace(-REACH, REACH, GRID) * np.sqrt(area)
    samplers = []
    for axis in (0, 1):
        line = np.arange(share.shape[axis])
        middle.append(float(share.sum(axis=1 - axis) @ line) / area)
        samplers.append(np.maximum(1 - np.abs(middle[axis] + steps[:, None] - line), 0))  # bilinear
    y, x = ((middle[axis] + corner[axis] + 0.5) / short for axis in (0, 1))
    portrait = samplers[0] @ share @ samplers[1].T
    return Spot(frame, x, y, area / short**2, colour, portrait.astype(np.float32))


def _uncovered_mean(pixels: np.ndarray, free: np.ndarray) -> np.ndarray:
    seen = free.sum(axis=0)[..., None]
    total = (pixels * free[..., None]).sum(axis=0)
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan).astype(np.float32)
