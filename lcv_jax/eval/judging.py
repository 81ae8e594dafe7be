"""What the toy world's judge says of samples, clip by clip, and how often it is content."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.data.toy import Facts, judge, score
from lcv_jax.eval.sampling import Judged
from lcv_jax.eval.shares import share

SCORES = ("colour", "shape", "motion", "count")
_UNMOVED = (None, "still")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of one clip. scores: `toy.score`. right: what of it is right, by name: the scores that are 1; "all" of them; for
    i2v "kept", colours, shapes and number; for vc "continued", see `continued`.
    """

    scores: Mapping[str, float]
    right: Mapping[str, bool]

    @property
    def wrong(self) -> tuple[str, ...]:
        """Names of what is not right, "all" left out."""
        return tuple(name for name, right in self.right.items() if not right and name != "all")


def verdict(task: Judged, clip: np.ndarray, facts: Facts, cond_frames: int) -> Verdict:
    """Of a clip (F, H, W, 3) uint8 that shall show the facts; the first cond_frames of a continuation were given."""
    scores = score(clip, facts)
    right = {name: scores[name] == 1 for name in SCORES}
    right["all"] = all(right.values())
    if task == "i2v":
        right["kept"] = right["colour"] and right["shape"] and right["count"]
    if task == "vc":
        right["continued"] = right["motion"] and moves_on(clip[cond_frames:], facts)
    return Verdict(scores, right)


def moves_on(frames: np.ndarray, facts: Facts) -> bool:
    """Whether every object that is asked to move does in these frames: one of its colour is seen, and is not still."""
    seen = {each.colour: each.motion for each in judge(frames).objects}
    return all(seen.get(each.colour) not in _UNMOVED for each in facts.objects if each.motion not in _UNMOVED)


def tally(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """{"clips": number, "mean": mean scores, and by name of what is right its `share`}."""
    mean = {name: float(np.mean([each.scores[name] for each in verdicts])) for name in SCORES}
    names = verdicts[0].right
    shares = {name: share(sum(each.right[name] for each in verdicts), len(verdicts)) for name in names}
    return {"clips": len(verdicts), "mean": mean, **shares}
