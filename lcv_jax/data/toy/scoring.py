"""How well a clip shows what was asked for: the judge's reading compared with facts, or with a caption's."""

from collections.abc import Sequence

import numpy as np
import scipy.optimize

from lcv_jax.data.images import as_frames
from lcv_jax.data.toy.facts import COLOURS, Facts
from lcv_jax.data.toy.reading import Reading, judge
from lcv_jax.errors import InputError

ATTRIBUTES = ("colour", "shape", "motion")
_WEIGHTS = (1.02, 1.01, 1.0)  # of attributes in the assignment: among equally good ones colours decide, then shapes


def score(frames: np.ndarray, facts: Facts) -> dict[str, float]:
    """Scores in [0, 1] of a clip (F, H, W, 3) or picture (H, W, 3), uint8: "colour", "shape", "motion" and "count".

    The first three are the share of the facts' objects that have it, each compared with one object of the clip, by the
    assignment that matches most. Motions that the facts do not tell count as shown. "count" is the smaller number of
    objects over the larger. All are 1 if and only if the objects are as asked for. With `parse`, scores captions.
    """
    return compare(judge(frames), facts)


def colour_error(frames: np.ndarray, facts: Facts) -> float:
    """How far the objects' colours are from those asked for: mean absolute error in levels, 0 to 255.

    frames: as for `score`. An object's colour is the median of its inner pixels, averaged over the frames. Each of the
    facts' objects is compared with one of the clip, channel by channel, by the assignment of least error. One that is
    not seen counts with the median colour of the whole clip, its ground's: what fades away is an error, not a gap.
    """
    frames = as_frames(frames)
    wanted = np.array([COLOURS[each.colour] for each in facts.objects], np.float32)
    seen = [each.rgb for each in judge(frames).objects]
    ground = np.median(frames.reshape(-1, 3), axis=0)
    found = np.array([*seen, *[ground] * (len(wanted) - len(seen))], np.float32)
    errors = np.abs(wanted[:, None] - found).mean(axis=-1)
    return float(errors[scipy.optimize.linear_sum_assignment(errors)].mean())


def score_batch(clips: Sequence[np.ndarray], facts: Sequence[Facts]) -> dict[str, np.ndarray]:
    """`score` of clip i for facts i, each (B,) float32. Raises InputError when their numbers differ."""
    if len(clips) != len(facts):
        raise InputError(f"{len(clips)} clips for {len(facts)} facts; expected as many of either")
    each = [score(*pair) for pair in zip(clips, facts, strict=True)]
    return {name: np.array([one[name] for one in each], np.float32) for name in (*ATTRIBUTES, "count")}


def compare(reading: Reading, facts: Facts) -> dict[str, float]:
    """`score` of a clip that has been read already."""
    wanted, seen = facts.objects, reading.objects
    hits = np.array(
        [
            [[getattr(want, name) in (None, getattr(see, name)) for name in ATTRIBUTES] for see in seen]
            for want in wanted
        ]
    ).reshape(len(wanted), len(seen), len(ATTRIBUTES))
    rows, columns = scipy.optimize.linear_sum_assignment(hits @ np.array(_WEIGHTS), maximize=True)
    shares = hits[rows, columns].sum(axis=0) / len(wanted)
    scores = dict(zip(ATTRIBUTES, shares.tolist(), strict=True))
    return {**scores, "count": min(len(wanted), len(seen)) / max(len(wanted), len(seen))}
