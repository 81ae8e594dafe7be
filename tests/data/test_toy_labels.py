"""Labels tell what a caption tells, and nothing more."""

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.data.toy.captions import LANGUAGES, write
from lcv_jax.data.toy.labels import KINDS, OF_GROUND, OF_OBJECTS, labels


def facts_of(made, row):
    """The facts that a row of labels tells."""
    objects = []
    for place, colour in enumerate(toy.COLOURS):
        told = {kind: OF_OBJECTS[kind][made[kind][row, place]] for kind in OF_OBJECTS}
        if told["shape"] is not None:
            objects.append(toy.Object(colour, **told))
        else:
            assert told["motion"] is None
    ground = {kind: OF_GROUND[kind][made[kind][row, 0]] for kind in OF_GROUND}
    assert len({name is None for name in ground.values()}) == 1
    return toy.Facts(tuple(objects), toy.Ground(**ground) if ground["tone"] else None)


@pytest.mark.smoke
def test_labels_by_hand():
    """Colours: red, orange, yellow, green, cyan, blue, purple, pink. The circle is shape 1, up motion 4; star 4,
    turns 8; navy is tone 4, striped pattern 2."""
    captions = [
        "A red circle moves up and a blue star spins.",
        "图中有一个粉色的圆形。",
        "A red star on a striped navy background.",
    ]
    made = labels([toy.parse(caption) for caption in captions])
    assert list(made) == list(KINDS) == ["shape", "motion", "tone", "pattern"]
    assert [len(classes) for classes in KINDS.values()] == [7, 9, 6, 5]
    expected = {
        "shape": [[1, 0, 0, 0, 0, 4, 0, 0], [0, 0, 0, 0, 0, 0, 0, 1], [4, 0, 0, 0, 0, 0, 0, 0]],
        "motion": [[4, 0, 0, 0, 0, 8, 0, 0], [0] * 8, [0] * 8],
        "tone": [[0], [0], [4]],
        "pattern": [[0], [0], [2]],
    }
    for kind, classes in expected.items():
        assert made[kind].dtype == np.int32
        np.testing.assert_array_equal(made[kind], classes)


@pytest.mark.parametrize("language", LANGUAGES)
def test_labels_are_all_that_a_caption_tells(language):
    shown = [toy.sample(seed) if seed % 3 else toy.sample(seed).without_motion() for seed in range(300)]
    told = [toy.parse(write(facts, language, seed)) for seed, facts in enumerate(shown)]
    made = labels(told)
    assert [facts_of(made, row) for row in range(300)] == told
    without = sum(facts.ground is None for facts in told)
    assert 20 < without < 80  # captions that leave out the ground of a clip that has one
    assert (made["tone"] == 0).sum() == (made["pattern"] == 0).sum() == without
