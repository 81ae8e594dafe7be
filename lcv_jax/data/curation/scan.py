"""The one pass over a source that shots, borders and overlays are found in. Memory does not grow with its length, but
for a few numbers a frame."""

import dataclasses
from array import array
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from lcv_jax.data.curation.borders import Brightest
from lcv_jax.data.curation.detectors import TINY, Running, Transition, Watching, lasting
from lcv_jax.data.curation.overlay import SIDE
from lcv_jax.data.files import Path
from lcv_jax.data.video import stream_timed

_SMALL = 256  # pixels of the longer side
_SPREAD = 48  # frames at full resolution: as many, up to twice as many
_STEP = 4  # frames between two of them at first


@dataclasses.dataclass(frozen=True)
class Scanned:
    """Of a source. starts: of its frames, in seconds since the first one's, and the end of the last one, (F + 1,)
    float64. transitions: as the detectors found them. size: (H, W) as displayed. large, small: the highest luminance
    of each pixel, over frames spread over the source at full resolution, and over all frames. spread: (N, h, w) uint8,
    luminance of frames spread over the source, 640 pixels on the longer side."""

    starts: np.ndarray
    transitions: tuple[Transition, ...]
    size: tuple[int, int]
    large: np.ndarray
    small: np.ndarray
    spread: np.ndarray


class Spread:
    """Picks frames spread over a source whose length is not known: every n-th one, and n doubles whenever too many
    are kept, of which every second one then goes."""

    def __init__(self, few: int = _SPREAD, step: int = _STEP):
        self.kept: list[np.ndarray] = []
        self._few, self._step = few, step

    def wants(self, number: int) -> bool:
        return number % self._step == 0

    def keep(self, frame: np.ndarray) -> None:
        """A frame that is wanted."""
        self.kept.append(frame)
        if len(self.kept) == 2 * self._few:
            self.kept, self._step = self.kept[::2], 2 * self._step


def scan(path: Path, fps: Fraction, detectors: Sequence[Running]) -> Scanned:
    """fps: the average rate, for the last frame's length and for how long fades may take. Raises InputError as
    `stream_timed` does."""
    import cv2

    starts, watching, spread = array("d"), Watching(fps), Spread()
    large, small_seen = Brightest(), Brightest()
    size = small_size = spread_size = (0, 0)
    first = Fraction(0)
    for number, still in enumerate(stream_timed(path)):
        wanted = spread.wants(number)
        if wanted:
            pixels = still.pixels()
            light = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        if number == 0:
            first, size = still.start, pixels.shape[:2]
            small_size, spread_size = _within(size, _SMALL), _within(size, SIDE)
        if wanted:
            large.take(light)
            spread.keep(cv2.resize(light, spread_size[::-1], interpolation=cv2.INTER_AREA))
        frame = still.small(small_size)
        tiny = cv2.resize(frame, TINY[::-1], interpolation=cv2.INTER_AREA)
        small_seen.take(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        watching.take(tiny)
        for detector in detectors:
            detector.take(number, frame, tiny)
        starts.append(float(still.start - first))
    starts.append(starts[-1] + float(1 / fps))
    seen = watching.seen()
    found = [transition for detector in detectors for transition in detector.found(seen)]
    transitions = tuple(lasting(found, seen.change, watching.across()))
    kept = np.stack(spread.kept)
    return Scanned(np.asarray(starts), transitions, size, large.seen, small_seen.seen, kept)


def _within(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Height and width of the same shape, the longer one of `side`, unless that were to enlarge."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
