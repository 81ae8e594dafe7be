"""Errors of colour: none of what was drawn, the tint's of what was tinted, and that of its absence of what is gone."""

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.errors import InputError


def drawn(seed: int, counts=(1, 2, 3)) -> tuple[np.ndarray, toy.Facts]:
    facts = toy.sample(seed, counts)
    return toy.render(facts, seed, (64, 64), 13).clip, facts


@pytest.mark.parametrize("seed", range(8))
def test_what_was_drawn_has_none(seed):
    clip, facts = drawn(seed)
    assert toy.colour_error(clip, facts) == 0
    assert toy.colour_error(clip[5:], facts) == 0


@pytest.mark.parametrize("seed", range(8))
def test_a_tint_is_measured(seed):
    """Darkened by a tenth, an object is off by a tenth of its mean level."""
    clip, facts = drawn(seed)
    expected = np.mean(
        [
            np.abs(np.floor(np.multiply(toy.COLOURS[o.colour], 0.9)) - toy.COLOURS[o.colour]).mean()
            for o in facts.objects
        ]
    )
    assert toy.colour_error((clip * 0.9).astype(np.uint8), facts) == pytest.approx(expected, abs=1)


def test_another_colour_counts_in_full():
    facts = toy.Facts((toy.Object("red", "circle", "still"),), toy.Ground("grey"))
    other = toy.Facts((toy.Object("blue", "circle", "still"),), toy.Ground("grey"))
    clip = toy.render(other, 1, (64, 64), 5).clip
    levels = np.abs(np.subtract(toy.COLOURS["red"], toy.COLOURS["blue"])).mean()
    assert toy.colour_error(clip, facts) == pytest.approx(levels)


def test_what_is_gone_counts_as_the_ground():
    facts = toy.Facts((toy.Object("red", "circle", "still"), toy.Object("blue", "star", "up")), toy.Ground("grey"))
    one = toy.render(toy.Facts(facts.objects[:1], facts.ground), 1, (64, 64), 5).clip
    to_ground = np.abs(np.subtract(toy.COLOURS["blue"], toy.TONES["grey"])).mean()
    assert toy.colour_error(one, facts) == pytest.approx(to_ground / 2)
    assert toy.colour_error(np.full((64, 64, 3), toy.TONES["grey"], np.uint8), facts) == pytest.approx(
        np.mean([to_ground, np.abs(np.subtract(toy.COLOURS["red"], toy.TONES["grey"])).mean()])
    )


def test_floats_are_refused():
    clip, facts = drawn(0)
    with pytest.raises(InputError, match="dtype float64, expected uint8"):
        toy.colour_error(clip / 255, facts)
