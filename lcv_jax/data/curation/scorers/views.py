"""What scorers look at: a clip decoded once, as a stream, and reduced to some stills, optical flow and text.

Memory is bounded: of a clip of any length there are `Stills.count` frames of `Stills.lines` lines and the flow of
`FlowView.most` pairs of frames on a coarse grid.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np

from lcv_jax.data.curation.scorers.base import Flow, needed, within
from lcv_jax.data.video import stream_video
from lcv_jax.errors import InputError

_GRID = 4
"""Pixels from point to point of the flow's grid: DIS gives one patch's motion to about as many."""
_CELL, _BEST = 5, 4
"""Points of the grid along a cell's side; of a cell the points that are believed, at most."""
_SOFT = 1.5
"""Pixels that pictures are blurred by before their texture is judged, so that noise counts little."""
_SLOPES = 255**2 / 4
"""What OpenCV's eigenvalues of 8-bit pictures are multiplied by to be mean squared slopes, in grey levels a pixel."""


@dataclasses.dataclass(frozen=True)
class Stills:
    """count: frames of a clip, evenly spread. lines: of their shorter side at most; larger ones are shrunk."""

    count: int = 8
    lines: int = 720

    def __post_init__(self):
        within("--annotate.stills.count", self.count, 1)
        within("--annotate.stills.lines", self.lines, 64)

    def numbers(self, frames: int) -> list[int]:
        """Of the frames wanted: the middles of `count` equal parts of the clip, each once."""
        count = min(self.count, frames)
        return sorted({int((k + 0.5) * frames / count) for k in range(count)})


@dataclasses.dataclass(frozen=True)
class FlowView:
    """width: pixels of the longer side of the frames that are compared. rate: pairs a second; of a clip with more
    frames, some are left out. most: pairs of a clip. run: pairs that follow on one another, of clips that have more
    than `most`: runs are spread evenly over them. corners: mean squared slope of grey levels, a pixel, in the direction
    where it is least, above which a point counts as textured."""

    width: int = 320
    rate: float = 15.0
    most: int = 240
    run: int = 24
    corners: float = 0.1

    def __post_init__(self):
        within("--annotate.flow.width", self.width, 64)
        within("--annotate.flow.rate", self.rate, 1.0)
        within("--annotate.flow.run", self.run, 2)
        within("--annotate.flow.most", self.most, self.run)

    def step(self, frames: int, fps: float) -> int:
        """Frames from one of a pair to the other."""
        return min(max(1, round(fps / self.rate)), max(1, frames - 1))

    def runs(self, frames: int, step: int) -> list[list[int]]:
        """Numbers of frames: each run's follow on one another, `step` apart."""
        pairs = (frames - 1) // step
        if pairs <= self.most:
            starts, length = [0], pairs
        else:
            count, length = self.most // self.run, self.run
            starts = [round(at) for at in np.linspace(0, pairs - length, count)]
        return [[(start + k) * step for k in range(length + 1)] for start in starts]


class FlowReader:
    """Takes the frames of a clip one by one, and gives its Flow in the end."""

    def __init__(self, view: FlowView, frames: int, fps: float):
        self._cv2 = needed("cv2")
        self._view, self._step = view, view.step(frames, fps)
        self._seconds = self._step / fps
        self._dis = self._cv2.DISOpticalFlow_create(self._cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._run = {number: run for run, numbers in enumerate(view.runs(frames, self._step)) for number in numbers}
        self._last: tuple[int, np.ndarray] | None = None
        self._moves: list[np.ndarray] = []
        self._textured: list[np.ndarray] = []
        self._runs: list[int] = []

    @property
    def numbers(self) -> frozenset[int]:
        """Of the frames it wants to see."""
        return frozenset(self._run)

    def add(self, number: int, frame: np.ndarray) -> None:
        """The next of them, (H, W, 3) uint8."""
        grey = self._cv2.cvtColor(shrunk(frame, longer=self._view.width), self._cv2.COLOR_RGB2GRAY)
        if self._last is not None and self._last[0] == number - self._step:
            before = self._last[1]
            moves = self._dis.calc(before, grey, None)
            self._moves.append(moves[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID] / np.float32(grey.shape[1]))
            self._textured.append(self._believed(before))
            self._runs.append(self._run[number])
        self._last = number, grey

    def _believed(self, grey: np.ndarray) -> np.ndarray:
        """The points of the grid, (H, W) bool, that have texture: of each cell the best few, so that all parts of the
        picture are heard, not only the one with the strongest edges."""
        soft = self._cv2.GaussianBlur(grey, (0, 0), _SOFT)
        weakest = self._cv2.cornerMinEigenVal(soft, blockSize=5, ksize=3)[_GRID // 2 :: _GRID, _GRID // 2 :: _GRID]
        weakest = weakest * np.float32(_SLOPES)
        height, width = (-(-side // _CELL) for side in weakest.shape)
        padded = np.zeros((height * _CELL, width * _CELL), np.float32)
        padded[: weakest.shape[0], : weakest.shape[1]] = weakest
        cells = padded.reshape(height, _CELL, width, _CELL).swapaxes(1, 2).reshape(height, width, -1)
        least = np.sort(cells, -1)[..., -_BEST, None]
        best = ((cells >= least) & (cells > self._view.corners)).reshape(height, width, _CELL, _CELL)
        return best.swapaxes(1, 2).reshape(padded.shape)[: weakest.shape[0], : weakest.shape[1]]

    def flow(self) -> Flow | None:
        """Of the frames so far; None of fewer than two."""
        if not self._moves:
            return None
        return Flow(np.stack(self._moves), np.stack(self._textured), np.array(self._runs), self._seconds)


def look(
    path: pathlib.Path, frames: int, fps: float, stills: Stills, flow: FlowView | None
) -> tuple[np.ndarray, Flow | None]:
    """Of a clip's file the stills, (S, H, W, 3) uint8, and the flow. frames, fps: as its record says.

    Raises InputError where the file cannot be read, or holds fewer frames than its record says.
    """
    wanted = stills.numbers(frames)
    reader = FlowReader(flow, frames, fps) if flow is not None else None
    moving = reader.numbers if reader is not None else frozenset()
    numbers = sorted(moving | set(wanted))
    kept: list[np.ndarray] = []
    seen = 0
    for number, frame in zip(numbers, stream_video(path, only=frozenset(numbers)), strict=False):
        seen += 1
        if reader is not None and number in moving:
            reader.add(number, frame)
        if number in wanted:
            kept.append(shrunk(frame, shorter=stills.lines))
    if seen < len(numbers):
        raise InputError(f"{path}: holds no frame {numbers[seen]}, and its record says {frames}; cut it again")
    return np.stack(kept), reader.flow() if reader is not None else None


def shrunk(frame: np.ndarray, *, shorter: int | None = None, longer: int | None = None) -> np.ndarray:
    """A frame (H, W, 3) or (H, W), its shorter or longer side at most as long as asked, by area averages."""
    height, width = frame.shape[:2]
    scale = min(shorter / min(height, width) if shorter else 1.0, longer / max(height, width) if longer else 1.0, 1.0)
    if scale == 1.0:
        return frame
    cv2 = needed("cv2")
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)


def spread(count: int, of: int) -> Sequence[int]:
    """Numbers of `count` things, evenly spread over `of`, each once."""
    return sorted({int((k + 0.5) * of / min(count, of)) for k in range(min(count, of))})
