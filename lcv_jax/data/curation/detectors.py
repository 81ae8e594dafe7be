"""Where shots change: detectors of PySceneDetect and TransNetV2, fed frame by frame, each with settings of its own.

Frames are small: 256 pixels on the longer side, as PySceneDetect takes them by itself.
"""

import dataclasses
import math
from array import array
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from lcv_jax.data.images import luminance
from lcv_jax.errors import InputError

TINY = (27, 48)
"""Height and width of what TransNetV2 looks at, whatever the picture's shape."""

_FADE_SECONDS = 2.0
_RAMP = 0.25  # levels a frame, by which a fade at least goes on
_BLACK = 2.0  # times a fade's threshold: the brightest area of a black frame
_SMOOTH = 5  # frames that are averaged to see a fade's slope
_SHORT = 3  # frames: as many may a hard cut have in TransNetV2's scores
_FLASH = 4  # frames that a flash may last
_ALIKE = 0.5  # share of a cut's change, below which frames on both sides of it are of the same shot
_SHARP = 0.6  # share of a hard cut in all that changes around it


@dataclasses.dataclass(frozen=True, order=True)
class Transition:
    """Decoded frames start to end, exclusive, that belong to neither shot; the same at a hard cut, where the new shot
    begins."""

    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of all frames once they have been seen, (F,) float32 each, in levels of 255. level: mean luminance.
    brightest: highest luminance, of areas of a 48th of the width. change: mean absolute difference from the frame
    before. fps: frames a second."""

    level: np.ndarray
    brightest: np.ndarray
    change: np.ndarray
    fps: Fraction


class Running(Protocol):
    """A detector at work on one source."""

    def take(self, number: int, frame: np.ndarray, tiny: np.ndarray) -> None:
        """The next frame, uint8 RGB: (h, w, 3), and (27, 48, 3)."""

    def found(self, seen: Seen) -> list[Transition]:
        """After the last frame."""


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """PySceneDetect's AdaptiveDetector: hard cuts, where a frame's change stands out from those around it.
    threshold: how many times higher; least: of the change itself, 0 to 255; window: frames on either side."""

    threshold: float = 3.0
    least: float = 15.0
    window: int = 2

    def __post_init__(self):
        _within("adaptive", self, threshold=255, least=255)
        if self.window < 1:
            raise InputError(f"shots.detectors, adaptive: window={self.window}: expected at least 1")

    def open(self, fps: Fraction) -> Running:
        from scenedetect import AdaptiveDetector

        return _Cuts(AdaptiveDetector(self.threshold, 0, self.window, self.least), fps)


@dataclasses.dataclass(frozen=True)
class Content:
    """PySceneDetect's ContentDetector: hard cuts, where a frame's change is above a threshold, 0 to 255."""

    threshold: float = 27.0

    def __post_init__(self):
        _within("content", self, threshold=255)

    def open(self, fps: Fraction) -> Running:
        from scenedetect import ContentDetector

        return _Cuts(ContentDetector(self.threshold, 0), fps)


@dataclasses.dataclass(frozen=True)
class Fades:
    """PySceneDetect's ThresholdDetector: where the picture goes through black. threshold: of the mean level, 0 to 255.
    Where the picture does not become black, but dark, there is no fade. Its frames are found by its slope."""

    threshold: float = 12.0

    def __post_init__(self):
        _within("fades", self, threshold=255)

    def open(self, fps: Fraction) -> Running:
        from scenedetect import ThresholdDetector

        return _Fades(ThresholdDetector(self.threshold, 0, add_final_scene=True), fps, self.threshold)


@dataclasses.dataclass(frozen=True)
class TransNet:
    """TransNetV2's thresholds: of its head for the middles of transitions, and of that for all of their frames. gap:
    frames below both that do not divide a transition, as in the middle of a fade."""

    one_hot: float = 0.4
    many_hot: float = 0.5
    gap: int = 5

    def __post_init__(self):
        _within("transnet", self, one_hot=1, many_hot=1)
        if self.gap < 0:
            raise InputError(f"shots.transnet, gap={self.gap}: expected frames, 0 or more")

    def open(self, network: Any) -> Running:
        """network: of `transnet.load`."""
        from lcv_jax.data.curation.transnet import Scores

        return _Network(Scores(network), self)


class _Cuts:
    def __init__(self, detector: Any, fps: Fraction):
        import scenedetect

        self._detector, self._at = detector, lambda number: scenedetect.FrameTimecode(number, fps)
        self._cuts: list[int] = []
        self._last = 0

    def take(self, number: int, frame: np.ndarray, tiny: np.ndarray) -> None:
        blue_first = np.ascontiguousarray(frame[..., ::-1])
        self._note(self._detector.process_frame(self._at(number), blue_first))
        self._last = number

    def found(self, seen: Seen) -> list[Transition]:
        self._note(self._detector.post_process(self._at(self._last)))
        return [Transition(cut, cut) for cut in self._cuts if cut > 0]

    def _note(self, cuts: Sequence[Any]) -> None:
        self._cuts += [cut.frame_num for cut in cuts]


class _Fades(_Cuts):
    def __init__(self, detector: Any, fps: Fraction, threshold: float):
        super().__init__(detector, fps)
        self._threshold = threshold

    def found(self, seen: Seen) -> list[Transition]:
        cuts = super().found(seen)
        return [fade for cut in cuts for fade in fades_around(cut.start, seen, self._threshold)]


class _Network:
    def __init__(self, scores: Any, settings: TransNet):
        self._scores, self._settings = scores, settings

    def take(self, number: int, frame: np.ndarray, tiny: np.ndarray) -> None:
        self._scores.take(tiny)

    def found(self, seen: Seen) -> list[Transition]:
        one_hot, many_hot = self._scores.all()
        return scored(one_hot, many_hot, seen.change, self._settings)


def fades_around(cut: int, seen: Seen, threshold: float) -> list[Transition]:
    """The fades through black in the frames around one that are below a threshold on average, of which a dark shot may
    be a part: black frames, and on both sides those that come from brightness steadily, or go there, for at most two
    seconds. None where no frame is black."""
    level, count = seen.level, len(seen.level)
    start = end = min(cut, count - 1)
    while start > 0 and level[start - 1] < threshold:
        start -= 1
    while end < count and level[end] < threshold:
        end += 1
    black = start + np.flatnonzero(seen.brightest[start:end] <= _BLACK * threshold)
    smooth = np.convolve(np.pad(level, _SMOOTH // 2, mode="edge"), np.full(_SMOOTH, 1 / _SMOOTH), mode="valid")
    parts = np.split(black, np.flatnonzero(np.diff(black) > 1) + 1) if len(black) else []
    return [_with_ramps(int(part[0]), int(part[-1]) + 1, smooth, round(_FADE_SECONDS * seen.fps)) for part in parts]


def _with_ramps(start: int, end: int, level: np.ndarray, longest: int) -> Transition:
    least, most = max(0, start - longest), min(len(level), end + longest)
    while start > least and level[start - 1] > level[start] + _RAMP:
        start -= 1
    while end < most and level[end] > level[end - 1] + _RAMP:
        end += 1
    return Transition(start, end)


def scored(one_hot: np.ndarray, many_hot: np.ndarray, change: np.ndarray, settings: TransNet) -> list[Transition]:
    """Transitions of TransNetV2's scores, (F,) in 0..1. A short run of frames above a threshold, where almost all that
    changes does so between two frames, is a hard cut there; change: as in `Seen`."""
    above = np.flatnonzero((one_hot > settings.one_hot) | (many_hot > settings.many_hot))
    if not len(above):
        return []
    parts = np.split(above, np.flatnonzero(np.diff(above) > settings.gap + 1) + 1)
    return [_sharpened(int(part[0]), int(part[-1]) + 1, change) for part in parts]


def _sharpened(start: int, end: int, change: np.ndarray) -> Transition:
    """As a hard cut, if it is one. The network marks the frame before a cut, and may mark those beside it."""
    first = max(1, start)
    around = change[first : end + 1]
    if end - start <= _SHORT and len(around) and around.max() >= _SHARP * around.sum():
        cut = first + int(np.argmax(around))
        return Transition(cut, cut)
    return Transition(start, end)


def _within(what: str, settings: Any, **most: float) -> None:
    for name, limit in most.items():
        if not 0 < getattr(settings, name) <= limit:
            raise InputError(f"shots, {what}: {name}={getattr(settings, name)}: expected above 0, up to {limit}")


def check_installed() -> None:
    """Raises InputError where PySceneDetect is missing."""
    try:
        import scenedetect  # noqa: F401
    except ImportError as error:
        raise InputError(f"shots need PySceneDetect ({error}); install it: pip install 'lcv_jax[curate]'") from error


def lasting(found: Sequence[Transition], change: np.ndarray, across: np.ndarray) -> list[Transition]:
    """Without those of flashes, after which the picture is the one from before. change: as in `Seen`. across: of
    `Watching`."""
    return [one for one in found if not _returns(one, change, across)]


def _returns(one: Transition, change: np.ndarray, across: np.ndarray) -> bool:
    frames = slice(one.start, one.end + 1)
    short = one.end - one.start <= 2 * _FLASH and one.start < len(change)
    return short and float(across[frames].min()) < _ALIKE * float(change[frames].max())


class Watching:
    """Collects `Seen`; and by frame, how much the most alike of the frames before it and from it on differ, of _FLASH
    more than one on either side: `across`, in levels."""

    def __init__(self, fps: Fraction):
        self._fps = fps
        self._last: deque[np.ndarray] = deque(maxlen=2 * _FLASH + 1)
        self._level, self._brightest, self._change = array("f"), array("f"), array("f")
        self._across = array("f")

    def take(self, tiny: np.ndarray) -> None:
        """tiny: (27, 48, 3) uint8."""
        light, now = luminance(tiny), tiny.astype(np.int16)
        self._level.append(float(light.mean()))
        self._brightest.append(float(light.max()))
        differs = [float(np.abs(now - before).mean()) for before in reversed(self._last)]  # from the frame before back
        self._change.append(differs[0] if differs else 0.0)
        self._across.append(math.inf)
        for behind in range(min(_FLASH, len(differs)) + 1):
            pairs = differs[behind : behind + _FLASH + 1]
            at = len(self._across) - 1 - behind
            self._across[at] = min([self._across[at], *pairs])
        self._last.append(now)

    def seen(self) -> Seen:
        level, brightest, change = (np.asarray(one) for one in (self._level, self._brightest, self._change))
        return Seen(level, brightest, change, self._fps)

    def across(self) -> np.ndarray:
        return np.asarray(self._across)
