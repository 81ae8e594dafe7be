"""Facts of the toy world: what can be said, how it is kept, and that random ones cover it evenly."""

import collections
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_jax.data import toy
from lcv_jax.data.toy.facts import generator, motions_of
from lcv_jax.errors import InputError

GROUND = toy.Ground("white", "dotted")
RED = toy.Object("red", "star", "turns")
BLUE = toy.Object("blue", "circle", "left")


def test_the_world_is_as_large_as_promised():
    assert len(toy.COLOURS) >= 8
    assert len(toy.SHAPES) >= 6
    assert len(toy.MOTIONS) >= 8
    assert len(set(toy.COLOURS) | set(toy.TONES)) == len(toy.COLOURS) + len(toy.TONES)


def test_objects_have_no_order():
    facts = toy.Facts((BLUE, RED), GROUND)
    assert facts == toy.Facts((RED, BLUE), GROUND)
    assert facts.objects == (RED, BLUE)
    assert hash(facts) == hash(toy.Facts((RED, BLUE), GROUND))


def test_a_picture_tells_no_motion():
    facts = toy.Facts((BLUE, RED), GROUND)
    assert facts.moving
    still = facts.without_motion()
    assert not still.moving
    assert [(each.colour, each.shape) for each in still.objects] == [("red", "star"), ("blue", "circle")]
    assert still.ground == GROUND


@given(st.integers(0, 2**63), st.booleans(), st.booleans())
def test_json_both_ways(seed, moving, grounded):
    facts = toy.sample(seed)
    facts = facts if moving else facts.without_motion()
    facts = facts if grounded else toy.Facts(facts.objects)
    assert toy.Facts.from_json(json.loads(json.dumps(facts.to_json()))) == facts


def test_json_is_what_it_looks_like():
    assert toy.Facts((RED,), GROUND).to_json() == {
        "objects": [{"colour": "red", "shape": "star", "motion": "turns"}],
        "ground": {"tone": "white", "pattern": "dotted"},
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy.Object("mauve", "star"), "colour 'mauve': expected one of red, orange"),
        (lambda: toy.Object("red", "blob"), "shape 'blob': expected one of circle"),
        (lambda: toy.Object("red", "star", "jumps"), "motion 'jumps': expected one of still"),
        (lambda: toy.Object("red", "star", 3), "motion 3: expected one of"),
        (lambda: toy.Object("red", "circle", "turns"), "motion 'turns': expected one of still, .*shrinks$"),
        (lambda: toy.Ground("red"), "tone 'red': expected one of white"),
        (lambda: toy.Ground("white", "tartan"), "pattern 'tartan': expected one of plain"),
        (lambda: toy.Facts(()), "0 objects, expected 1 to 3"),
        (lambda: toy.Facts(tuple(toy.Object(c, "star") for c in list(toy.COLOURS)[:4])), "4 objects, expected 1 to 3"),
        (lambda: toy.Facts((RED, toy.Object("red", "heart", "up"))), "red, red; expected each of a colour of its own"),
        (lambda: toy.Facts((RED, toy.Object("blue", "heart"))), "some have none; expected all or none"),
        (lambda: toy.Facts.from_json([]), r"facts: \[\], expected a mapping with the keys objects, ground"),
        (lambda: toy.Facts.from_json({"objects": []}), "expected a mapping with the keys objects, ground"),
        (lambda: toy.Facts.from_json({"objects": "red", "ground": None}), "objects='red', expected a list"),
        (lambda: toy.Facts.from_json({"objects": [{"colour": "red"}], "ground": None}), "object: .* keys colour"),
        (lambda: toy.Facts.from_json({"objects": [], "ground": {"tone": "white"}}), "ground: .* keys tone, pattern"),
        (lambda: toy.sample(0, ()), r"counts=\(\): expected numbers of objects from 1 to 3"),
        (lambda: toy.sample(0, (1, 4)), r"counts=\(1, 4\): expected numbers"),
        (lambda: toy.sample(-1), "seed=-1: expected an integer from 0"),
        (lambda: toy.sample([0, 1.5]), r"seed=\[0, 1.5\]: expected an integer from 0"),
        (lambda: generator([]), r"seed=\[\]: expected"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_random_facts_cover_the_world_evenly():
    count = 3000
    seen = collections.defaultdict(collections.Counter)
    for seed in range(count):
        facts = toy.sample(seed)
        seen["count"][len(facts.objects)] += 1
        seen["tone"][facts.ground.tone] += 1
        seen["pattern"][facts.ground.pattern] += 1
        for each in facts.objects:
            seen["colour"][each.colour] += 1
            seen["shape"][each.shape] += 1
            seen[each.shape][each.motion] += 1
    choices = {"count": 3, "tone": len(toy.TONES), "pattern": len(toy.PATTERNS), "colour": len(toy.COLOURS)}
    choices |= {"shape": len(toy.SHAPES)} | {shape: len(motions_of(shape)) for shape in toy.SHAPES}
    assert set(seen) == set(choices)
    for what, size in choices.items():
        expected = sum(seen[what].values()) / size
        assert len(seen[what]) == size
        # five standard deviations of a share of independent draws
        assert max(abs(n - expected) for n in seen[what].values()) < 5 * expected**0.5, (what, seen[what])


@pytest.mark.smoke
def test_a_seed_stands_for_the_same_facts_everywhere():
    assert toy.sample(1) == toy.Facts(
        (toy.Object("orange", "circle", "up"), toy.Object("green", "heart", "right")), toy.Ground("navy", "striped")
    )
    assert toy.sample([7, 2], counts=(1,)) == toy.sample([7, 2], counts=(1,))
    assert toy.sample([7, 2]) != toy.sample([7, 3])
