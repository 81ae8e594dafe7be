"""Where the objects of a clip are in each frame: in view and apart from one another from the first to the last.

Lengths here are in short sides of the picture. A motion spans the clip, whatever its number of frames, so that it
shows in five as in ninety-three.
"""

import dataclasses

import numpy as np

from lcv_jax.data.toy.facts import Facts, Object, generator

MARGIN = 0.025
"""Least distance from the border."""
GAP = 0.07
"""Least distance between two objects' circumscribed circles."""
TILT = 8.0
"""Degrees by which a shape leans to either side at most."""
FASTEST_TURN = 25.0
"""Degrees from frame to frame: well under half a square's symmetry, so that the eye can follow."""
LONGEST_TURN = 270.0
_SLOWEST = 0.85  # share of the turn that the slowest do
_CANDIDATES = 256
_INSTANTS = np.linspace(0, 1, 9)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Ranges that seeds draw from, in short sides. diameter: of the circumscribed circle. small: the same at the
    small end of growing and shrinking; growth: how many times larger the other end is. travel: the way of what moves.
    """

    diameter: tuple[float, float]
    small: tuple[float, float]
    growth: tuple[float, float]
    travel: tuple[float, float]


SIZES = {
    1: Sizes(diameter=(0.38, 0.52), small=(0.28, 0.34), growth=(1.6, 2.0), travel=(0.30, 0.42)),
    2: Sizes(diameter=(0.30, 0.36), small=(0.22, 0.26), growth=(1.5, 1.7), travel=(0.24, 0.34)),
    3: Sizes(diameter=(0.27, 0.30), small=(0.20, 0.22), growth=(1.5, 1.6), travel=(0.22, 0.28)),
}
"""By the number of objects. Three fit into a square with room to spare, so placing by trial ends soon."""
_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclasses.dataclass(frozen=True)
class Path:
    """One object's way through a clip, arrays (F,): centre x, y and radius of the circumscribed circle in pixels,
    angle in degrees clockwise from upright.
    """

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def least_turn(frames: int) -> float:
    """Degrees that an object which turns does at least from the first frame to the last."""
    return _SLOWEST * min(FASTEST_TURN * (frames - 1), LONGEST_TURN)


def lay_out(facts: Facts, seed: int, size: tuple[int, int], frames: int) -> tuple[Path, ...]:
    """One path for each object, from the facts, the seed and the picture's proportions alone.

    A single frame shows the middle of the motion. The same seed draws the same places for any number of frames.
    """
    short = min(size)
    extent = np.array([size[1], size[0]]) / short
    rng = generator([seed, 0])
    objects = facts.objects
    while True:
        centre, travel, radius = _candidates(objects, extent, rng)
        fine = _apart(centre, travel, radius)
        if fine.any():
            break
    best = int(np.argmax(fine))
    tilts, turns = rng.random(len(objects)), rng.random(len(objects))
    u = np.linspace(0, 1, frames) if frames > 1 else np.array([0.5])
    paths = []
    for i, each in enumerate(objects):
        x, y = ((centre[best, i] + (u[:, None] - 0.5) * travel[best, i]) * short).T
        r = radius[best, i, 0] + u * (radius[best, i, 1] - radius[best, i, 0])
        angle = TILT * (2 * tilts[i] - 1) + np.zeros(len(u))
        if each.motion == "turns":
            angle += u * least_turn(frames) * (1 + turns[i] * (1 / _SLOWEST - 1))
        paths.append(Path(x, y, r * short, angle))
    return tuple(paths)


def _candidates(
    objects: tuple[Object, ...], extent: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random ways through a picture of `extent` (width, height), each within it: centre half-way and travel, both
    (candidates, objects, 2), and radius at start and end, (candidates, objects, 2).
    """
    sizes = SIZES[len(objects)]
    shape = (_CANDIDATES, len(objects))
    draws = rng.random((5, *shape))
    radius = np.empty((*shape, 2))
    travel = np.zeros((*shape, 2))
    for i, each in enumerate(objects):
        radius[:, i] = _between(sizes.diameter, draws[0, :, i])[:, None] / 2
        if each.motion in ("grows", "shrinks"):
            small = _between(sizes.small, draws[0, :, i]) / 2
            ends = (small, small * _between(sizes.growth, draws[1, :, i]))
            radius[:, i] = np.stack(ends if each.motion == "grows" else ends[::-1], axis=-1)
        direction = np.array(_DIRECTIONS.get(each.motion, (0, 0)))
        travel[:, i] = direction * _between(sizes.travel, draws[2, :, i])[:, None]
    reach = radius.max(axis=-1)[..., None] + np.abs(travel) / 2 + MARGIN
    centre = reach + np.moveaxis(draws[3:], 0, -1) * (extent - 2 * reach)
    return centre, travel, radius


def _apart(centre: np.ndarray, travel: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Which candidates keep every pair of objects GAP apart all the time, (candidates,) bool."""
    u = _INSTANTS[:, None, None, None]
    places = centre + (u - 0.5) * travel
    radii = radius[..., 0] + u[..., 0] * (radius[..., 1] - radius[..., 0])
    fine = np.ones(len(centre), bool)
    for i in range(centre.shape[1]):
        for j in range(i):
            distance = np.hypot(*np.moveaxis(places[:, :, i] - places[:, :, j], -1, 0))
            fine &= (distance >= radii[:, :, i] + radii[:, :, j] + GAP).all(axis=0)
    return fine


def _between(limits: tuple[float, float], draw: np.ndarray) -> np.ndarray:
    return limits[0] + draw * (limits[1] - limits[0])
