"""Judges of the toy world: how clean the pictures are, how well something moves, how well the caption is shown.

Each looks at one thing only, as the report's rewards do, and can be fooled in what it does not look at: a still picture
of any clean object satisfies the first, any moving shape of any colour the second. Scores are continuous, in [0, 1], so
that similar videos of a group still differ.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import scipy.ndimage
import scipy.optimize

from lcv_jax.data.images import luminance
from lcv_jax.data.toy import COLOURS, TONES, Facts, Reading, judge, parse
from lcv_jax.data.toy.ground import shades
from lcv_jax.data.toy.scoring import ATTRIBUTES
from lcv_jax.errors import InputError
from lcv_jax.rewards.protocol import ALL_FRAMES, FramePick

_TOLERANCE = 20.0  # levels from a known colour at which a pixel counts for 1 / e
_WINDOW = 7  # pixels; edges are compared with the range of their neighbourhood
_EDGE = 60.0  # levels; what has less range is no outline, but a pattern of the ground, or noise
_SATURATED = 100.0  # levels between the strongest and the weakest channel; grounds have at most 48
_PRESENT = 0.03  # share of the picture that objects must have to count as present
_AMPLITUDE = 0.01  # mean squared change, of that of the pixels that change most, that counts for 1 - 1 / e
_FAINT = 8.0  # levels; pixels that change less are taken to change so much, so that noise is no motion
_FEWEST = 5  # frames; of fewer there are too few pairs at each distance in time


@dataclasses.dataclass(frozen=True)
class ToyReward:
    """Scores video by video. judge_one: of a video (F, H, W, 3) uint8 and a prompt. parses: whether prompts must be
    captions of the toy world.
    """

    name: str
    judge_one: Callable[[np.ndarray, str], float]
    parses: bool = False
    picks: FramePick = ALL_FRAMES

    def check(self, prompts: Sequence[str]) -> None:
        """Raises InputError for a prompt that is no caption of the toy world, where it has to be one."""
        if self.parses:
            for prompt in prompts:
                parse(prompt)

    def __call__(self, frames: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        return np.array([self.judge_one(*pair) for pair in zip(frames, prompts, strict=True)], np.float32)


def toy_rewards() -> tuple[ToyReward, ...]:
    """All judges of this file, by the names that settings have."""
    return (
        ToyReward("toy-visual", lambda frames, prompt: visual_quality(frames)),
        ToyReward("toy-motion", lambda frames, prompt: motion_quality(frames), picks=FramePick(needs=_FEWEST)),
        ToyReward("toy-text", lambda frames, prompt: text_alignment(judge(frames), parse(prompt)), parses=True),
    )


def visual_quality(frames: np.ndarray) -> float:
    """How clean the pictures of a video (F, H, W, 3) uint8 are, mean over the frames; motion and meaning do not count.

    The product of three: how near pixels are to colours of this world, how steep the outlines are, and whether there
    is an object at all.
    """
    pixels = np.float32(frames)
    return float(np.mean(_flatness(pixels) * _sharpness(pixels) * _presence(pixels)))


def motion_quality(frames: np.ndarray) -> float:
    """How clearly and evenly something moves in a video (F, H, W, 3) uint8, seen in grey.

    In an even motion, going, growing or turning, how much two frames differ depends on the time between them alone,
    which fails at cuts and in shuffled frames; it does depend on it, which fails in noise; and frames two apart do not
    differ less than neighbours, which fails in flicker. The score is the product of how far each holds, and of how
    much changes at all: a still video has 0. Raises InputError for fewer than 5 frames.
    """
    count = len(frames)
    if count < _FEWEST:
        raise InputError(f"toy-motion: a video of {count} frames, expected at least {_FEWEST} to see a motion in")
    grey = luminance(frames).reshape(count, -1)
    grey -= grey.mean()
    squares = (grey**2).mean(axis=1)
    differences = np.maximum(squares[:, None] + squares - 2 * (grey @ grey.T) / grey.shape[1], 0)
    lags = [np.diagonal(differences, lag) for lag in range(1, count // 2 + 1)]
    curve = np.array([each.mean() for each in lags])
    pairs = np.concatenate(lags)
    contrast = max(float(np.percentile(np.ptp(grey, axis=0), 99)), _FAINT)
    amount = 1 - np.exp(-pairs.mean() / contrast**2 / _AMPLITUDE)
    variance = pairs.var() * len(pairs) / (len(pairs) - 1)
    if variance == 0:
        return 0.0
    left = sum(((each - mean) ** 2).sum() for each, mean in zip(lags, curve, strict=True)) / (len(pairs) - len(lags))
    even, graded = max(1 - left / variance, 0), 1 - curve.min() / curve.max()
    return float(amount * even * graded * min(curve[1] / max(curve[0], 1e-6), 1))


def text_alignment(reading: Reading, facts: Facts) -> float:
    """How much of what is asked for is seen: mean of colour, shape, motion, number, and the ground where it is told.

    A right attribute counts (1 + c) / 2 and a wrong one (1 - c) / 2, where c is how certain the judge is of it, so the
    score has no jump where the judge changes its mind. Objects are paired so that the sum is largest.
    """
    wanted, seen = facts.objects, reading.objects
    shown = np.zeros((len(wanted), len(seen), len(ATTRIBUTES)))
    for i, want in enumerate(wanted):
        for j, see in enumerate(seen):
            for k, name in enumerate(ATTRIBUTES):
                shown[i, j, k] = _shown(getattr(want, name), getattr(see, name), see.certainty[k])
    rows, columns = scipy.optimize.linear_sum_assignment(shown.sum(axis=-1), maximize=True)
    parts = list(shown[rows, columns].sum(axis=0) / len(wanted))
    parts.append(min(len(wanted), len(seen)) / max(len(wanted), len(seen)))
    if facts.ground is not None:
        ground = reading.ground
        parts.append(0.0 if ground is None else np.mean([a == b for a, b in _pairs(facts.ground, ground)]))
    return float(np.mean(parts))


def _shown(wanted: str | None, seen: str | None, certainty: float) -> float:
    if wanted is None:
        return 1.0
    if seen is None:
        return 0.0
    return (1 + certainty) / 2 if wanted == seen else (1 - certainty) / 2


def _pairs(first: object, second: object) -> list[tuple[str, str]]:
    return list(zip(dataclasses.astuple(first), dataclasses.astuple(second), strict=True))


@functools.cache
def _known() -> np.ndarray:
    """Colours that pixels of this world have, (n, 3): of objects, and both shades of each ground."""
    return np.array([*COLOURS.values(), *(shade for tone in TONES for shade in shades(tone))], np.float32)


def _flatness(frames: np.ndarray) -> np.ndarray:
    """(F,) mean over the pixels of exp(-distance to the nearest known colour / tolerance)."""
    known = _known()
    squares = (frames**2).sum(-1)[..., None] + (known**2).sum(-1) - 2 * frames @ known.T
    return np.exp(-np.sqrt(np.maximum(squares.min(axis=-1), 0)) / _TOLERANCE).mean(axis=(1, 2))


def _sharpness(frames: np.ndarray) -> np.ndarray:
    """(F,) how much of the range in its neighbourhood a step between pixels at an outline has, steep ones weighing
    more, 0 to 1; 0 without outlines.
    """
    window = (1, _WINDOW, _WINDOW, 1)
    spread = scipy.ndimage.maximum_filter(frames, window) - scipy.ndimage.minimum_filter(frames, window)
    channel = spread.argmax(axis=-1)[..., None]
    spread = np.take_along_axis(spread, channel, -1)[..., 0]
    steps = (np.abs(np.diff(frames, axis=axis, append=frames.take([-1], axis))) for axis in (1, 2))
    step = np.take_along_axis(np.maximum(*steps), channel, -1)[..., 0] * (spread > _EDGE)
    return (step**2).sum(axis=(1, 2)) / np.maximum((step * spread).sum(axis=(1, 2)), 1e-6)


def _presence(frames: np.ndarray) -> np.ndarray:
    """(F,) whether saturated pixels, as objects have and grounds do not, fill a share of the picture, 0 to 1."""
    chroma = frames.max(axis=-1) - frames.min(axis=-1)
    return np.minimum((chroma > _SATURATED).mean(axis=(1, 2)) / _PRESENT, 1.0)
