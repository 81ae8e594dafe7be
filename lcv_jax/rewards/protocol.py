"""What a reward is, how one is asked for, and what comes back.

    settings = (RewardSettings("toy-visual"), RewardSettings("toy-text", weight=2.0, url="http://10.0.0.7:8700"))
    rewards = open_rewards(settings)                    # opening.py: loads models, reaches servers; InputError
    check_prompts(rewards, prompts)                     # opening.py: InputError before anything is computed
    scored = gather(rewards, frames, prompts)           # gathering.py: asks all at once, never raises for a reward
    scored.scores                                       # (K, N) float32, NaN where a reward failed

K rewards stand in the order of the settings. Scores are comparable within a reward only: larger is better.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.published import is_number

Frames = np.ndarray | Sequence[np.ndarray]
"""Videos, uint8 RGB: (N, F, H, W, 3), or N arrays (F, H, W, 3) that may differ in F, H and W."""
Device = Literal["cpu", "cuda"]


class RewardFailed(Exception):
    """A reward gave no scores this time; it may the next. The message is one line."""


@dataclasses.dataclass(frozen=True)
class FramePick:
    """Which frames of a video a reward looks at, evenly spaced from the first to the last; only they are handed over.

    rate: frames a second, None for all there are. multiple: of which their number is one, where the video is long
    enough. least, most: bounds of their number. needs: a video from which fewer are picked cannot be scored. Raises
    InputError on values out of range.
    """

    rate: float | None = None
    multiple: int = 1
    least: int = 1
    most: int | None = None
    needs: int = 1

    def __post_init__(self) -> None:
        rate = self.rate is None or (is_number(self.rate, float) and self.rate > 0)
        counts = all(
            is_number(count) and count > 0
            for count in (self.multiple, self.least, 1 if self.most is None else self.most, self.needs)
        )
        if not rate or not counts:
            raise InputError(f"{self}: expected a rate above 0 or None, and whole numbers above 0")

    def indices(self, frames: int, fps: float) -> np.ndarray:
        """Numbers of the frames of a video of `frames` frames at `fps` a second, ascending, each at most once."""
        limit = min(frames, self.most or frames)
        limit = limit // self.multiple * self.multiple or limit
        count = frames if self.rate is None else frames / fps * self.rate
        count = min(max(count, self.least), limit)
        count = min(max(round(count / self.multiple) * self.multiple, 1), limit)
        return np.round(np.linspace(0, frames - 1, count)).astype(int)


ALL_FRAMES = FramePick()


class Reward(Protocol):
    """One judge of videos. May compute here or ask another machine. Called by one thread at a time."""

    name: str
    picks: FramePick

    def check(self, prompts: Sequence[str]) -> None:
        """Raises InputError for prompts that cannot be judged."""

    def __call__(self, frames: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """Scores (N,) float32 of N videos (F, H, W, 3) uint8, already reduced to what `picks` names, for N prompts.

        NaN where a video cannot be scored. Raises InputError for prompts or videos that it will never score, and
        RewardFailed, or anything else, where another try may help.
        """


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """One reward of a run.

    name: one of `opening.NAMES`, or, with a url, one that is served there. weight: in the sum of advantages. url: of a
    reward server, such as http://10.0.0.7:8700; None computes in this process. path: folder of the published weights,
    of a reward in this process that has some. device: that they compute on in this process. timeout_s: seconds for one
    request. retries: how many requests may be repeated in a call of `gather`. batch: videos in one request.
    most_frames: of each video; None leaves it to the reward. Raises InputError on values out of range.
    """

    name: str
    weight: float = 1.0
    url: str | None = None
    path: str | None = None
    device: Device = "cpu"
    timeout_s: float = 120.0
    retries: int = 2
    batch: int = 16
    most_frames: int | None = None

    def __post_init__(self) -> None:
        def expect(holds: bool, field: str, expected: str) -> None:
            if not holds:
                raise InputError(f"reward {self.name!r}: {field}={getattr(self, field)!r}: expected {expected}")

        expect(isinstance(self.name, str) and bool(self.name), "name", "a name")
        expect(is_number(self.weight, float) and self.weight >= 0, "weight", "a number from 0")
        expect(is_number(self.timeout_s, float) and self.timeout_s > 0, "timeout_s", "seconds above 0")
        expect(is_number(self.retries) and self.retries >= 0, "retries", "a whole number from 0")
        expect(is_number(self.batch) and self.batch > 0, "batch", "a whole number above 0")
        whole = self.most_frames is None or (is_number(self.most_frames) and self.most_frames > 0)
        expect(whole, "most_frames", "a whole number above 0, or None")
        expect(self.url is None or self.path is None, "path", "None, as the url names a server that has its own")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A reward that is ready, and how it is to be asked."""

    settings: RewardSettings
    reward: Reward

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def picks(self) -> FramePick:
        """The reward's own, and no more frames than the settings allow."""
        picks, most = self.reward.picks, self.settings.most_frames
        if most is None:
            return picks
        return dataclasses.replace(picks, most=most if picks.most is None else min(most, picks.most))


@dataclasses.dataclass(frozen=True)
class Scored:
    """What K rewards say of N videos.

    names: of the rewards. scores: (K, N) float32, NaN where a reward failed. failed: by name, how many videos it gave
    no score for. seconds: by name, how long it took, all tries together.
    """

    names: tuple[str, ...]
    scores: np.ndarray
    failed: Mapping[str, int]
    seconds: Mapping[str, float]
