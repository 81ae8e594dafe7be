"""What is true of a clip: its objects, each of a colour, a shape and a motion, and the ground behind them.

Names are the English words of the captions. What is None is not told: a picture shows no motion, and a caption may
leave the ground out.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.errors import InputError

COLOURS = {
    "red": (232, 40, 44),
    "orange": (255, 132, 0),
    "yellow": (255, 222, 38),
    "green": (26, 172, 72),
    "cyan": (0, 194, 216),
    "blue": (38, 88, 246),
    "purple": (140, 40, 208),
    "pink": (255, 104, 188),
}
"""Colours of objects, RGB: saturated, and at least 90 levels apart."""
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
MOTIONS = ("still", "left", "right", "up", "down", "grows", "shrinks", "turns")
TONES = {
    "white": (246, 246, 242),
    "beige": (224, 206, 176),
    "grey": (158, 164, 172),
    "navy": (34, 46, 78),
    "black": (18, 18, 20),
}
"""Colours of grounds, RGB: all much less saturated than any object."""
PATTERNS = ("plain", "striped", "checked", "dotted")
MOST_OBJECTS = 3


@dataclasses.dataclass(frozen=True)
class Object:
    """One thing in a clip. A circle that turns cannot be seen to, so there is none."""

    colour: str
    shape: str
    motion: str | None = None

    def __post_init__(self) -> None:
        _check("colour", self.colour, COLOURS)
        _check("shape", self.shape, SHAPES)
        if self.motion is not None:
            _check("motion", self.motion, motions_of(self.shape))


@dataclasses.dataclass(frozen=True)
class Ground:
    """What lies behind the objects: a tone, and a pattern of two close shades of it."""

    tone: str
    pattern: str = "plain"

    def __post_init__(self) -> None:
        _check("tone", self.tone, TONES)
        _check("pattern", self.pattern, PATTERNS)


@dataclasses.dataclass(frozen=True)
class Facts:
    """objects: 1 to 3 of different colours, kept in the order of COLOURS, so that equal facts compare equal; all of
    them have a motion or none has. ground: None where it is not told. Raises InputError on anything else.
    """

    objects: tuple[Object, ...]
    ground: Ground | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.objects) <= MOST_OBJECTS:
            raise InputError(f"facts: {len(self.objects)} objects, expected 1 to {MOST_OBJECTS}")
        colours = [each.colour for each in self.objects]
        if len(set(colours)) < len(colours):
            raise InputError(f"facts: objects are {', '.join(colours)}; expected each of a colour of its own")
        if len({each.motion is None for each in self.objects}) > 1:
            raise InputError("facts: some objects have a motion and some have none; expected all or none")
        order = list(COLOURS)
        ordered = sorted(self.objects, key=lambda each: order.index(each.colour))
        object.__setattr__(self, "objects", tuple(ordered))

    @property
    def moving(self) -> bool:
        """Whether the motions are told; "still" is one."""
        return self.objects[0].motion is not None

    def without_motion(self) -> "Facts":
        """What a picture of it shows."""
        return Facts(tuple(dataclasses.replace(each, motion=None) for each in self.objects), self.ground)

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists, strings and None; `from_json` reads it back."""
        ground = dataclasses.asdict(self.ground) if self.ground else None
        return {"objects": [dataclasses.asdict(each) for each in self.objects], "ground": ground}

    @classmethod
    def from_json(cls, given: Any) -> "Facts":
        """The facts that `to_json` wrote. Raises InputError on missing, unknown and mistyped keys."""
        fields = _fields("facts", given, ("objects", "ground"))
        objects = fields["objects"]
        if not isinstance(objects, Sequence) or isinstance(objects, str):
            raise InputError(f"facts: {objects=}, expected a list of objects")
        ground = fields["ground"]
        return cls(
            tuple(Object(**_fields("object", each, ("colour", "shape", "motion"))) for each in objects),
            None if ground is None else Ground(**_fields("ground", ground, ("tone", "pattern"))),
        )


def motions_of(shape: str) -> tuple[str, ...]:
    """The motions that can be seen of a shape."""
    return tuple(motion for motion in MOTIONS if (shape, motion) != ("circle", "turns"))


def sample(seed: int | Sequence[int], counts: Sequence[int] = (1, 2, 3)) -> Facts:
    """Facts drawn at random, all told.

    counts: how many objects there may be, each number as likely as it is often in the list. Colours, shapes, tones
    and patterns are uniform, motions uniform given the shape. Only uniform floats are drawn from the generator, whose
    stream NumPy keeps from version to version. Raises InputError on negative seeds and counts beyond 1 to 3.
    """
    if not counts or not all(count in range(1, MOST_OBJECTS + 1) for count in counts):
        raise InputError(f"{counts=}: expected numbers of objects from 1 to {MOST_OBJECTS}")
    rng = generator(seed)
    count = pick(rng, counts)
    colours = np.argsort(rng.random(len(COLOURS)))[:count]
    shapes = [pick(rng, SHAPES) for _ in colours]
    objects = (
        Object(list(COLOURS)[colour], shape, pick(rng, motions_of(shape)))
        for colour, shape in zip(colours, shapes, strict=True)
    )
    return Facts(tuple(objects), Ground(pick(rng, list(TONES)), pick(rng, PATTERNS)))


def generator(seed: int | Sequence[int]) -> np.random.Generator:
    """The random numbers of a seed, an integer from 0 or a sequence of them. Raises InputError on others."""
    parts = [seed] if isinstance(seed, int | np.integer) else list(seed)
    if not parts or not all(isinstance(part, int | np.integer) and part >= 0 for part in parts):
        raise InputError(f"{seed=}: expected an integer from 0, or a sequence of them")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(parts)))


def pick(rng: np.random.Generator, choices: Sequence[Any]) -> Any:
    """One of `choices`, each as likely."""
    return choices[int(rng.random() * len(choices))]


def _check(what: str, name: Any, known: Iterable[str]) -> None:
    if name not in tuple(known):
        raise InputError(f"{what} {name!r}: expected one of {', '.join(known)}")


def _fields(what: str, given: Any, names: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping) or set(given) != set(names):
        raise InputError(f"{what}: {given!r}, expected a mapping with the keys {', '.join(names)}")
    return given
