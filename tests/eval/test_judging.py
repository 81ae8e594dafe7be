"""Verdicts on drawn clips: right where they show what was asked for, wrong in what was spoilt."""

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.eval.judging import Verdict, moves_on, tally, verdict
from lcv_jax.eval.shares import share

GIVEN = 5


def drawn(seed: int, counts=(1, 2, 3)) -> tuple[np.ndarray, toy.Facts]:
    facts = toy.sample(seed, counts)
    return toy.render(facts, seed, (64, 64), 13).clip, facts


def circle(colour: str, motion: str) -> tuple[np.ndarray, toy.Facts]:
    facts = toy.Facts((toy.Object(colour, "circle", motion),), toy.Ground("grey"))
    return toy.render(facts, 3, (64, 64), 13).clip, facts


@pytest.mark.parametrize("seed", range(12))
def test_what_was_drawn_is_right_in_every_task(seed):
    clip, facts = drawn(seed)
    for task, more in (("t2v", set()), ("i2v", {"kept"}), ("vc", {"continued"})):
        found = verdict(task, clip, facts, GIVEN)
        assert set(found.right) == {"colour", "shape", "motion", "count", "all"} | more
        assert all(found.right.values())
        assert found.wrong == ()


def test_another_colour_is_not_kept():
    clip, _ = circle("blue", "left")
    found = verdict("i2v", clip, circle("red", "left")[1], GIVEN)
    assert found.wrong == ("colour", "kept")
    assert not found.right["all"]


def test_another_motion_is_kept_but_wrong():
    clip, _ = circle("red", "left")
    found = verdict("i2v", clip, circle("red", "up")[1], GIVEN)
    assert (found.right["kept"], found.wrong) == (True, ("motion",))


def test_a_continuation_that_stands_still_is_none():
    """Its whole shows the motion, as the given frames do."""
    clip, facts = circle("red", "right")
    frozen = np.concatenate([clip[:9], np.repeat(clip[8:9], 4, axis=0)])
    frozen[GIVEN:] = clip[8]
    found = verdict("vc", frozen, facts, GIVEN)
    assert found.right["motion"]
    assert found.wrong == ("continued",)


def test_a_continuation_the_other_way_is_none():
    clip, facts = circle("red", "right")
    back = np.concatenate([clip[:GIVEN], clip[GIVEN - 1 :: -1], clip[:3]])[:13]
    assert "continued" in verdict("vc", back, facts, GIVEN).wrong


def test_what_shall_stay_need_not_move():
    clip, facts = circle("red", "still")
    assert moves_on(clip[GIVEN:], facts)
    assert not moves_on(clip[GIVEN:], circle("red", "up")[1])
    assert not moves_on(np.full_like(clip, 128), circle("red", "up")[1])


def test_a_tally_by_hand():
    scores = {"colour": 1.0, "shape": 0.5, "motion": 1.0, "count": 1.0}
    right = {"colour": True, "shape": False, "all": False}
    other = Verdict(dict.fromkeys(scores, 1.0), dict.fromkeys(right, True))
    found = tally([Verdict(scores, right), other, other])
    assert found["clips"] == 3
    assert found["mean"] == pytest.approx({"colour": 1, "shape": 2.5 / 3, "motion": 1, "count": 1})
    assert (found["colour"], found["shape"], found["all"]) == (share(3, 3), share(2, 3), share(2, 3))
