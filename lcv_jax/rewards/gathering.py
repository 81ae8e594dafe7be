"""Asks all rewards of a batch of videos at once, with time limits and retries; what fails is NaN and counted."""

import dataclasses
import logging
import math
import threading
import time
from collections.abc import Sequence

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.rewards.protocol import Frames, Opened, RewardFailed, Scored

logger = logging.getLogger(__name__)

_FIRST_WAIT = 0.5  # seconds before the first repetition, doubled for each further one
_LONGEST_WAIT = 30.0


def gather(rewards: Sequence[Opened], frames: Frames, prompts: Sequence[str], *, fps: float = 15.0) -> Scored:
    """What every reward says of every video; all rewards work at the same time, each in a thread of its own.

    frames: N videos, uint8 (N, F, H, W, 3) or a sequence of (F, H, W, 3). prompts: N. fps: frames a second of the
    videos, for rewards that look at some frames only.

    A reward that is too slow, fails, or gives what is no finite number is asked again, as often as its settings allow
    in this call. Samples that have no score then are NaN, and a warning says why. One that did not answer at all is not
    asked for the rest of the batch, so that a dead one costs timeout_s * (retries + 1) and the waits between, not that
    for every request. Raises InputError for videos and prompts that do not fit together, and nothing else.
    """
    videos = _videos(frames)
    if len(videos) != len(prompts):
        raise InputError(f"rewards: {len(videos)} videos for {len(prompts)} prompts; expected as many of either")
    if not rewards or not videos:
        raise InputError(f"rewards: {len(rewards)} rewards, {len(videos)} videos; expected at least one of either")
    if not (math.isfinite(fps) and fps > 0):
        raise InputError(f"rewards: {fps} frames a second, expected a number above 0")
    rows: list[_Row | None] = [None] * len(rewards)

    def ask(k: int) -> None:
        rows[k] = _ask(rewards[k], videos, prompts, fps)

    threads = [threading.Thread(target=ask, args=(k,), daemon=True) for k in range(len(rewards))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = tuple(each.name for each in rewards)
    return Scored(
        names=names,
        scores=np.stack([row.scores for row in rows]),
        failed={name: int(np.isnan(row.scores).sum()) for name, row in zip(names, rows, strict=True)},
        seconds={name: row.seconds for name, row in zip(names, rows, strict=True)},
    )


def _videos(frames: Frames) -> list[np.ndarray]:
    videos = [np.asarray(video) for video in frames]
    for i, video in enumerate(videos):
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
            raise InputError(
                f"rewards: video {i} is {video.dtype} {video.shape}, expected uint8 (frames, height, width, 3)"
            )
    return videos


@dataclasses.dataclass(frozen=True)
class _Row:
    """scores: (N,) float32, NaN where there is none. seconds: that it took."""

    scores: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Answer:
    """To one request. scores: (n,) float32, NaN where there is none. fault: why some have none. answered: whether there
    was an answer at all. final: whether it will be the same another time.
    """

    scores: np.ndarray
    fault: str = ""
    answered: bool = True
    final: bool = False


class _Retries:
    """What is left of the requests that may be repeated."""

    def __init__(self, left: int):
        self.left, self.wait = left, _FIRST_WAIT

    def take(self) -> bool:
        """Whether another try is allowed; waits until it is time for it."""
        if not self.left:
            return False
        time.sleep(self.wait)
        self.left, self.wait = self.left - 1, min(2 * self.wait, _LONGEST_WAIT)
        return True


def _ask(opened: Opened, videos: Sequence[np.ndarray], prompts: Sequence[str], fps: float) -> _Row:
    """One reward's row, request by request; only a request's frames are copied."""
    start, retries = time.monotonic(), _Retries(opened.settings.retries)
    scores = np.full(len(videos), np.nan, np.float32)
    for first in range(0, len(videos), opened.settings.batch):
        part = np.arange(first, min(first + opened.settings.batch, len(videos)))
        while True:
            picked = [videos[i][opened.picks.indices(len(videos[i]), fps)] for i in part]
            answer = _answer(opened, picked, [prompts[i] for i in part])
            scores[part] = answer.scores
            part = part[np.isnan(answer.scores)]
            if not len(part) or answer.final or not retries.take():
                break
        if len(part):
            fault = " ".join(answer.fault.split())
            logger.warning("reward %s: no score for %d videos: %s", opened.name, len(part), fault)
        if not answer.answered:
            break
    return _Row(scores, time.monotonic() - start)


def _answer(opened: Opened, videos: Sequence[np.ndarray], prompts: Sequence[str]) -> _Answer:
    nothing = np.full(len(videos), np.nan, np.float32)
    try:
        scores = _within(opened, videos, prompts)
    except InputError as error:
        return _Answer(nothing, str(error), final=True)
    except Exception as error:  # a reward may be anything, and none may end the run
        what = "" if isinstance(error, RewardFailed) else f"{type(error).__name__}: "
        return _Answer(nothing, f"{what}{error}", answered=False)
    finite = np.isfinite(scores)
    return _Answer(np.where(finite, scores, nothing), "" if finite.all() else "gave what is no finite number")


def _within(opened: Opened, videos: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """Scores (n,) float32 within the time limit. What takes longer is left to itself: a thread cannot be stopped."""
    outcome: list[np.ndarray | BaseException] = []

    def call() -> None:
        try:
            outcome.append(np.asarray(opened.reward(videos, prompts)))
        except BaseException as error:  # raised again by the one who waits
            outcome.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(opened.settings.timeout_s)
    if not outcome:
        raise RewardFailed(f"no answer within {opened.settings.timeout_s:g} s")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    scores = outcome[0]
    if scores.shape != (len(videos),) or scores.dtype.kind not in "fiu":
        raise RewardFailed(f"gave {scores.dtype} {scores.shape}, expected {len(videos)} numbers")
    return scores.astype(np.float32)
