"""Facts as numbers: a class for everything that a caption may tell, for whoever learns to read captions."""

from collections.abc import Mapping, Sequence

import numpy as np

from lcv_jax.data.toy.facts import COLOURS, MOTIONS, PATTERNS, SHAPES, TONES, Facts

OF_OBJECTS: Mapping[str, tuple[str | None, ...]] = {"shape": (None, *SHAPES), "motion": (None, *MOTIONS)}
"""Of each colour, in the order of COLOURS, because objects of one clip differ in it. Class 0: there is no such object,
or its motion is not told."""
OF_GROUND: Mapping[str, tuple[str | None, ...]] = {"tone": (None, *TONES), "pattern": (None, *PATTERNS)}
"""Of the ground. Class 0: it is not told."""
KINDS = {**OF_OBJECTS, **OF_GROUND}
"""Classes by kind; a class is its place in the row."""


def labels(facts: Sequence[Facts]) -> dict[str, np.ndarray]:
    """The classes of B facts by kind, int32: (B, colours) of OF_OBJECTS, (B, 1) of OF_GROUND.

    What a caption tells is `parse(caption)`; the facts that it was written from may tell more.
    """
    made = {kind: np.zeros((len(facts), len(COLOURS)), np.int32) for kind in OF_OBJECTS}
    made |= {kind: np.zeros((len(facts), 1), np.int32) for kind in OF_GROUND}
    places = {colour: place for place, colour in enumerate(COLOURS)}
    for row, each in enumerate(facts):
        for one in each.objects:
            for kind, classes in OF_OBJECTS.items():
                made[kind][row, places[one.colour]] = classes.index(getattr(one, kind))
        if each.ground is not None:
            for kind, classes in OF_GROUND.items():
                made[kind][row, 0] = classes.index(getattr(each.ground, kind))
    return made
