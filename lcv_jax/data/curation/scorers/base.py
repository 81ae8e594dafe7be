"""What a scorer is: small settings that open what turns a batch of clips, reduced to what is needed, into numbers."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from lcv_jax.errors import InputError

View = Literal["stills", "flow", "words"]


@dataclasses.dataclass(frozen=True)
class Flow:
    """Optical flow between frames of a clip, on a grid. P pairs of frames, a grid of H x W points.

    moves: (P, H, W, 2) float32, how far a point moves to the right and down from the first frame of its pair to the
    second, in widths of the frame. textured: (P, H, W) bool, points whose flow can be believed: those of their part of
    the picture with the most texture around. run: (P,) int, pairs of the same number follow on one another without a
    gap. seconds: between the frames of a pair.
    """

    moves: np.ndarray
    textured: np.ndarray
    run: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class Word:
    """A line of text that was read. corners: (4, 2) float32, x and y as shares of the frame's width and height."""

    text: str
    score: float
    corners: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom, as shares."""
        (left, top), (right, bottom) = self.corners.min(0), self.corners.max(0)
        return float(left), float(top), float(right), float(bottom)


@dataclasses.dataclass(frozen=True)
class Sample:
    """A clip, reduced to what scorers need; views that none needs are None.

    stills: (S, H, W, 3) uint8, RGB, frames evenly spread over the clip. flow: None also for a clip of one frame. words:
    of some of the stills, in order. overlay: x, y, width, height as shares of the frame: a mark that stays in place
    over the shots of the source.
    """

    clip_id: str
    stills: np.ndarray
    flow: Flow | None = None
    words: tuple[tuple[Word, ...], ...] | None = None
    overlay: tuple[float, float, float, float] | None = None


Scoring = Callable[[Sequence[Sample]], list[dict[str, Any]]]
"""A batch of clips to the fields of each, in order."""


class Scorer(Protocol):
    """Settings of a scorer, a frozen dataclass. fields: of records.SCORES, which it gives for every clip. needs: views
    of a clip besides its stills."""

    fields: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[View, ...]]

    def decides(self) -> Mapping[str, Any]:
        """As of a stage: settings, and fingerprints of weights."""

    def check(self) -> None:
        """Raises InputError where packages or weights are missing."""

    def open(self) -> Scoring:
        """Loads what there is to load; called once in each worker's process."""


class Plain:
    """For scorers without packages of their own and without weights."""

    def decides(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)

    def check(self) -> None:
        """Nothing is missing."""


def needed(package: str) -> Any:
    """A package of the extra `curate`. Raises InputError with one line if it is not there."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"scorers of curation need {package} ({error}); install it: pip install 'lcv_jax[curate]'"
        ) from error


def within(what: str, value: float, least: float, most: float = float("inf")) -> None:
    """Raises InputError unless a setting lies where it can."""
    if not least <= value <= most:
        expected = f"at least {least:g}" if most == float("inf") else f"{least:g} to {most:g}"
        raise InputError(f"{what}={value}: expected {expected}")
