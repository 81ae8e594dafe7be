"""One request at a time for what a reward computes in this process."""

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np

from lcv_jax.rewards.protocol import FramePick, Reward, RewardFailed


@dataclasses.dataclass(frozen=True)
class InTurn:
    """A reward of this process, which computes one request at a time, together with others that share its model.

    lock: of the model. patience_s: how long a request waits for its turn before it fails.
    """

    reward: Reward
    lock: threading.Lock
    patience_s: float

    @property
    def name(self) -> str:
        return self.reward.name

    @property
    def picks(self) -> FramePick:
        return self.reward.picks

    def check(self, prompts: Sequence[str]) -> None:
        self.reward.check(prompts)

    def __call__(self, frames: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        if not self.lock.acquire(timeout=self.patience_s):
            raise RewardFailed(f"still busy with an earlier request after {self.patience_s:g} s")
        try:
            return self.reward(frames, prompts)
        finally:
            self.lock.release()
