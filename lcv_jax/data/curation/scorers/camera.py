"""How the camera moves: of the flow between frames the similarity that most points agree on, and names for it.

Directions are the camera's: pan_left is a camera that turns left, so that what it sees moves to the right; tilt_up one
that turns up, what it sees moves down; zoom_in one that comes closer. Turning and travelling look alike from the flow
alone, and have one name.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lcv_jax.data.curation.scorers.base import Flow, Plain, Sample, Scoring, View, needed, within

LABELS = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "shake")
_LEAST_POINTS = 24
_SCALE = 320.0
"""Pixels of a width, to OpenCV, whose search has absolute tolerances."""


@dataclasses.dataclass(frozen=True)
class Moves:
    """Of the P pairs of frames of a clip. rates: (P, 4), pan to the right and tilt up in widths a second, log zoom and
    roll of what is seen, clockwise, in radians, a second. inliers: (P,) share of the textured points that the
    similarity explains; 0 where there is none."""

    rates: np.ndarray
    inliers: np.ndarray


@dataclasses.dataclass(frozen=True)
class Camera(Plain):
    """pan (and tilt, widths a second), zoom (log, a second), roll (radians a second): rates that are named when they
    last for `share` of the time, smoothed over `smooth` seconds. shake: what smoothing takes away, widths a second,
    root mean square of the calmest four fifths. inliers: share of points that must agree for a pair of frames to be
    believed; where fewer than half of the pairs are, the camera has no name at all. error: of a point that agrees, in
    pixels of 320 a width."""

    fields: ClassVar[tuple[str, ...]] = ("camera", "camera_rates", "camera_shake", "camera_inliers")
    needs: ClassVar[tuple[View, ...]] = ("flow",)

    pan: float = 0.02
    zoom: float = 0.03
    roll: float = 0.03
    shake: float = 0.05
    share: float = 0.4
    smooth: float = 0.8
    inliers: float = 0.4
    error: float = 0.6

    def __post_init__(self):
        for name in ("pan", "zoom", "roll", "shake", "smooth", "error"):
            within(f"camera, {name}", getattr(self, name), 1e-6)
        for name in ("share", "inliers"):
            within(f"camera, {name}", getattr(self, name), 0.0, 1.0)

    def check(self) -> None:
        needed("cv2")

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        return [self._clip(clip.flow) for clip in clips]

    def _clip(self, flow: Flow | None) -> dict[str, Any]:
        if flow is None:
            return {"camera": None, "camera_rates": None, "camera_shake": None, "camera_inliers": None}
        moves = camera_moves(flow, self.error)
        sure = moves.inliers >= self.inliers
        told: dict[str, Any] = {
            "camera": [],
            "camera_rates": None,
            "camera_shake": None,
            "camera_inliers": float(moves.inliers.mean()),
        }
        if sure.mean() < 0.5:
            return told
        rates, run = moves.rates[sure], flow.run[sure]
        smooth = smoothed(rates, run, max(1, round(self.smooth / flow.seconds)))
        rest = np.sort(np.square((rates - smooth) * _LENGTHS).sum(1))
        shake = float(np.sqrt(rest[: max(1, round(_STEADY * len(rest)))].mean()))
        return told | {
            "camera": self._names(smooth, shake),
            "camera_rates": [float(rate) for rate in rates.mean(0)],
            "camera_shake": shake,
        }

    def _names(self, smooth: np.ndarray, shake: float) -> list[str]:
        # Of a fast move some spills over into the others, and of a strong shake some stays when it is smoothed.
        least = np.maximum(_SPILLED * np.linalg.norm(smooth * _LENGTHS, axis=1), _SPILLED * shake)
        pan, tilt, zoom, roll = smooth.T
        shift, scale, turn = (np.maximum(own, least / length) for own, length in self._least())
        lasting = {
            "pan_left": pan < -shift,
            "pan_right": pan > shift,
            "tilt_up": tilt > shift,
            "tilt_down": tilt < -shift,
            "zoom_in": zoom > scale,
            "zoom_out": zoom < -scale,
            "roll": np.abs(roll) > turn,
        }
        found = [name for name, when in lasting.items() if when.mean() >= self.share]
        found += ["shake"] if shake > self.shake else []
        return found or ["static"]

    def _least(self) -> list[tuple[float, float]]:
        return [(self.pan, _LENGTHS[0]), (self.zoom, _LENGTHS[2]), (self.roll, _LENGTHS[3])]


_LENGTHS = np.float64([1.0, 1.0, 0.25, 0.25])
"""What a rate moves the points of a frame by, in widths, on average: zoom and roll move those far from the middle."""


_STEADY = 0.8
"""Share of the pairs that shake is the mean of, those with the least: single wrong similarities are no shake."""
_SPILLED = 0.15
"""Share of the whole movement, or of the shake, that a rate must have to be named."""


def camera_moves(flow: Flow, error: float) -> Moves:
    """The similarity between the frames of each pair. error: of points that agree, pixels of 320 a width."""
    found = [
        _similarity(moves, textured, error / 320) for moves, textured in zip(flow.moves, flow.textured, strict=True)
    ]
    rates = np.array([rate for rate, _ in found]) / flow.seconds
    return Moves(rates, np.array([share for _, share in found]))


def smoothed(rates: np.ndarray, run: np.ndarray, length: int) -> np.ndarray:
    """Running means of (P, 4) over `length` pairs within each run."""
    kernel = np.ones(length)
    found = np.empty_like(rates)
    for number in np.unique(run):
        here = run == number
        some = rates[here]
        counts = np.convolve(np.ones(len(some)), kernel, "full")
        middle = slice((length - 1) // 2, (length - 1) // 2 + len(some))
        for column in range(rates.shape[1]):
            sums = np.convolve(some[:, column], kernel, "full")
            found[here, column] = (sums / counts)[middle]
    return found


def _similarity(moves: np.ndarray, textured: np.ndarray, error: float) -> tuple[tuple[float, ...], float]:
    """Pan, tilt, log zoom and roll between two frames, and the share of points that agree."""
    cv2 = needed("cv2")
    height, width = textured.shape
    if textured.sum() < _LEAST_POINTS:
        return (0.0,) * 4, 0.0
    rows, columns = np.nonzero(textured)
    # From the middle of the frame, in widths: the shift is then that of the middle.
    points = np.stack([(columns + 0.5) / width - 0.5, (rows + 0.5 - height / 2) / width], -1).astype(np.float32)
    to = points + moves[textured]
    matrix, agree = cv2.estimateAffinePartial2D(
        points * _SCALE, to * _SCALE, method=cv2.RANSAC, ransacReprojThreshold=error * _SCALE, maxIters=500
    )
    if matrix is None:
        return (0.0,) * 4, 0.0
    (a, _, right), (b, _, down) = matrix
    return (-right / _SCALE, down / _SCALE, float(np.log(np.hypot(a, b))), float(np.arctan2(b, a))), float(agree.mean())
