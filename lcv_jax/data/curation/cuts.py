"""From transitions to shots: pure arithmetic on frame numbers and timestamps."""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from lcv_jax.data.curation.detectors import Transition
from lcv_jax.errors import InputError

Cut = Literal["hard", "gradual", "edge", "split"]
_SAME = 1  # frames: as far apart two detectors may see one cut
_HARD = 1  # frames that a hard cut may take, mixed of both shots


@dataclasses.dataclass(frozen=True)
class Lengths:
    """least, most: seconds of a shot; shorter ones are left out, longer ones divided evenly. trim_hard: frames that are
    left out on each side of a hard cut; trim_gradual: of a dissolve or fade, besides its own."""

    least: float = 2.0
    most: float = 20.0
    trim_hard: int = 0
    trim_gradual: int = 2

    def __post_init__(self):
        if not 0 < 2 * self.least <= self.most < math.inf:
            raise InputError(
                f"shots.lengths, least={self.least}, most={self.most}: expected seconds above 0, most at least twice "
                "least, so that what is divided stays long enough"
            )
        for name in ("trim_hard", "trim_gradual"):
            if getattr(self, name) < 0:
                raise InputError(f"shots.lengths, {name}={getattr(self, name)}: expected frames, 0 or more")


@dataclasses.dataclass(frozen=True)
class Shot:
    """Frames start to end, exclusive, of a source. number: of the shot among all of the source, the same for the
    parts of a long one."""

    number: int
    start: int
    end: int
    cut_in: Cut
    cut_out: Cut


def united(transitions: Iterable[Transition]) -> list[Transition]:
    """What several detectors found, in order: those that meet or overlap are one."""
    found: list[Transition] = []
    for one in sorted(transitions):
        if found and one.start <= found[-1].end + _SAME:
            found[-1] = Transition(found[-1].start, max(found[-1].end, one.end))
        else:
            found.append(one)
    return found


def shots(transitions: Sequence[Transition], starts: np.ndarray, lengths: Lengths) -> list[Shot]:
    """The shots that are long enough, in order.

    transitions: in order, apart. starts: (F + 1,), of frames in seconds, and the end of the last one.
    """
    count = len(starts) - 1
    found: list[Shot] = []
    edges = [(0, 0, "edge"), *(_trimmed(one, lengths) for one in transitions), (count, count, "edge")]
    for number, ((_, start, cut_in), (end, _, cut_out)) in enumerate(itertools.pairwise(edges)):
        start, end = max(0, start), min(end, count)
        if start < end and starts[end] - starts[start] >= lengths.least:
            found += _divided(Shot(number, start, end, cut_in, cut_out), starts, lengths.most)
    return found


def _trimmed(one: Transition, lengths: Lengths) -> tuple[int, int, Cut]:
    """The end of the shot before, the start of the one behind, and what lies between."""
    hard = one.end - one.start <= _HARD
    trim = lengths.trim_hard if hard else lengths.trim_gradual
    return one.start - trim, one.end + trim, "hard" if hard else "gradual"


def _divided(shot: Shot, starts: np.ndarray, most: float) -> list[Shot]:
    """Parts of the same length in seconds."""
    since, until = starts[shot.start], starts[shot.end]
    parts = math.ceil((until - since) / most - 1e-9)
    bounds = np.searchsorted(starts, np.linspace(since, until, parts + 1)[1:-1] - 1e-6)
    edges = [shot.start, *(int(bound) for bound in bounds), shot.end]
    return [
        Shot(
            shot.number,
            start,
            end,
            shot.cut_in if start == shot.start else "split",
            shot.cut_out if end == shot.end else "split",
        )
        for start, end in itertools.pairwise(edges)
    ]
