"""Asks all rewards of a batch of videos at once, with time limits and retries; what fails is NaN and counted."""

import dataclasses
import logging
import threading
import time
from collections.abc import Sequence

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.rewards.protocol import Frames, Opened, RewardFailed, Scored

logger = logging.getLogger(__name__)

_FIRST_WAIT = 0.5  # seconds before the first repetition, doubled for each further one
_LONGEST_WAIT = 30.0


def gather(
    rewards: Sequence[Opened], frames: Frames, prompts: Sequence[str], group: int, *, fps: float = 15.0
) -> Scored:
    """What every reward says of every video; all rewards work at the same time, each in a thread of its own.

    frames: N videos, uint8 (N, F, H, W, 3) or a sequence of (F, H, W, 3). prompts: N. group: videos of one prompt that
    stand together, a divisor of N. fps: frames a second of the videos, for rewards that look at some frames only.

    A reward that is too slow, fails, or gives what is no finite number is asked again, as often as its settings allow
    in this call; samples without a score then have NaN, and a warning says why. Returns within about
    timeout_s * (requests + retries) and the waits between. Raises InputError for videos, prompts and groups that do
    not fit together, nothing else.
    """
    videos = _videos(frames)
    if len(videos) != len(prompts):
        raise InputError(f"rewards: {len(videos)} videos for {len(prompts)} prompts; expected as many of either")
    if not rewards or group < 1 or not videos or len(videos) % group:
        raise InputError(
            f"rewards: {len(rewards)} rewards, {len(videos)} videos in groups of {group}; expected at least one reward "
            "and whole groups"
        )
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
        weights=np.array([each.settings.weight for each in rewards], np.float32),
        scores=np.stack([row.scores for row in rows]),
        group=group,
        failed={name: int(np.isnan(row.scores).sum()) for name, row in zip(names, rows, strict=True)},
        seconds={name: row.seconds for name, row in zip(names, rows, strict=True)},
    )


@dataclasses.dataclass(frozen=True)
class _Row:
    """scores: (N,) float32, NaN where there is none. seconds: that it took."""

    scores: np.ndarray
    seconds: float


def _videos(frames: Frames) -> list[np.ndarray]:
    videos = [np.asarray(video) for video in frames]
    for i, video in enumerate(videos):
        if video.dtype != np.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.size:
            raise InputError(
                f"rewards: video {i} is {video.dtype} {video.shape}, expected uint8 (frames, height, width, 3)"
            )
    return videos


def _ask(opened: Opened, videos: Sequence[np.ndarray], prompts: Sequence[str], fps: float) -> _Row:
    """One reward's row: its requests one behind the other, repeated from a common allowance."""
    settings, start = opened.settings, time.monotonic()
    scores = np.full(len(videos), np.nan, np.float32)
    left, repeated = settings.retries, 0
    for first in range(0, len(videos), settings.batch):
        missing = np.arange(first, min(first + settings.batch, len(videos)))
        while True:
            picked = [videos[i][opened.reward.picks.indices(len(videos[i]), fps)] for i in missing]
            fault = again = None
            try:
                scores[missing] = _within(opened, picked, [prompts[i] for i in missing])
            except InputError as error:
                fault, again = str(error), False
            except Exception as error:  # a reward may be anything; none may end the run
                fault, again = f"{type(error).__name__}: {error}", True
            if fault is None:
                missing = missing[~np.isfinite(scores[missing])]
                scores[missing] = np.nan
                if not len(missing):
                    break
                fault, again = "gave scores that are no finite numbers", True
            if not again or not left:
                logger.warning("reward %s: %d videos have no score: %s", opened.name, len(missing), _line(fault))
                break
            left -= 1
            time.sleep(min(_FIRST_WAIT * 2**repeated, _LONGEST_WAIT))
            repeated += 1
    return _Row(scores, time.monotonic() - start)


def _within(opened: Opened, videos: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
    """Scores (N,) within the time limit. What takes longer is left to itself: a thread cannot be stopped."""
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


def _line(text: str) -> str:
    return " ".join(text.split())
