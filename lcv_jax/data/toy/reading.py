"""Reads facts back from pixels: how many objects, their colours, shapes and motions, and the ground.

Knows the world's palette, shapes and kinds of motion, and nothing of how a clip was made. Objects are found in each
frame, linked from frame to frame, and measured as a whole: mean colour; the portrait compared with every shape at every
angle; way, growth and turn as straight lines fitted over time.
"""

import collections
import dataclasses
import functools
import itertools

import numpy as np
import scipy.ndimage
import scipy.optimize

from lcv_jax.data.images import as_frames
from lcv_jax.data.toy.facts import COLOURS, MOST_OBJECTS, SHAPES, Facts, Ground, Object
from lcv_jax.data.toy.ground import read_ground
from lcv_jax.data.toy.layout import least_turn
from lcv_jax.data.toy.segment import GRID, REACH, Spot, segment
from lcv_jax.data.toy.shapes import SYMMETRY, signed_distance

_FARTHEST_COLOUR = 90.0  # levels, from the nearest colour of the palette; what is farther has no name
_WORST_PORTRAIT = 0.03  # mean squared difference of cover; what fits worse is none of the shapes
_ANGLE_STEP = 6.0  # degrees
_BLURS = (0.06, 0.13, 0.22)  # standard deviations, in square roots of the area: from sharp to small and blurred
_FINER = 3  # samples a side that a template's samples are means of
_OTHER_COLOUR = 0.5  # short sides that a change of colour counts for, when spots are linked
_LEAST_TRAVEL = 0.06  # short sides; under half of the shortest way in the world, so that a part of a clip can be judged
_LEAST_GROWTH = 0.15  # of the logarithm of the size
_LEAST_TURN = 0.35  # of the smallest turn in the world


@dataclasses.dataclass(frozen=True)
class Seen:
    """An object in a clip; None is what cannot be told: a colour or shape unlike any, a motion in a single frame.

    certainty: of colour, shape and motion, 0 (a guess between two) to 1. rgb: its mean colour in levels, from which
    drift can be told. x, y: its mean place, in short sides.
    """

    colour: str | None
    shape: str | None
    motion: str | None
    certainty: tuple[float, float, float]
    rgb: tuple[float, float, float]
    x: float
    y: float


@dataclasses.dataclass(frozen=True)
class Reading:
    """What `judge` sees. objects: any number, in the order of COLOURS. ground: None where it cannot be told."""

    objects: tuple[Seen, ...]
    ground: Ground | None

    @property
    def count(self) -> int:
        return len(self.objects)

    @property
    def facts(self) -> Facts | None:
        """The same as facts, or None where they are none of this world: too many objects, a colour twice, one that
        cannot be told, a motion of some only.
        """
        colours = {each.colour for each in self.objects}
        if not 1 <= len(self.objects) <= MOST_OBJECTS or len(colours) < len(self.objects):
            return None
        if any(each.colour is None or each.shape is None for each in self.objects):
            return None
        if len({each.motion is None for each in self.objects}) > 1:
            return None
        return Facts(tuple(Object(each.colour, each.shape, each.motion) for each in self.objects), self.ground)


def judge(frames: np.ndarray) -> Reading:
    """Reads a clip (F, H, W, 3) uint8, a picture (H, W, 3), or what else `as_frames` takes.

    At most 17 frames are looked at, and large ones averaged down first, so time is bounded by the area of the input.
    Raises InputError on other shapes and dtypes.
    """
    frames = as_frames(frames)
    seen = segment(frames)
    objects = [_read(track, seen.moments, len(frames)) for track in _tracks(seen.spots, len(seen.moments))]
    order = [*COLOURS, None]
    objects.sort(key=lambda each: (order.index(each.colour), each.x))
    return Reading(tuple(objects), read_ground(seen.ground))


def _tracks(spots: tuple[Spot, ...], looked_at: int) -> list[list[Spot]]:
    """Spots of the same object, one list each, linked by nearness and colour; as many as there are in most of the
    frames that were looked at, empty ones included.
    """
    frames = [list(group) for _, group in itertools.groupby(spots, key=lambda spot: spot.frame)]
    counts = collections.Counter(len(group) for group in frames)
    counts[0] = looked_at - len(frames)
    usual = max(counts, key=lambda count: (counts[count], count))
    if not usual:
        return []
    start = next(i for i, group in enumerate(frames) if len(group) == usual)
    tracks = [[spot] for spot in frames[start]]
    for group in reversed(frames[:start]):
        for track, spot in _links([track[0] for track in tracks], group):
            tracks[track].insert(0, spot)
    for group in frames[start + 1 :]:
        for track, spot in _links([track[-1] for track in tracks], group):
            tracks[track].append(spot)
    return tracks


def _links(last: list[Spot], group: list[Spot]) -> list[tuple[int, Spot]]:
    """Which of the tracks that end in `last` each spot of the next frame belongs to."""
    places, to_places = (np.array([(spot.x, spot.y) for spot in spots]) for spots in (last, group))
    names, to_names = (np.array([_colour(spot.colour)[0] or "" for spot in spots]) for spots in (last, group))
    ways = np.linalg.norm(places[:, None] - to_places, axis=-1)
    costs = ways + _OTHER_COLOUR * (names[:, None] != to_names)
    tracks, chosen = scipy.optimize.linear_sum_assignment(costs)
    return [(int(track), group[spot]) for track, spot in zip(tracks, chosen, strict=True)]


def _read(track: list[Spot], moments: np.ndarray, frames: int) -> Seen:
    """Puts names to one object; `frames` is the length of the clip."""
    rgb = np.mean([spot.colour for spot in track], axis=0)
    colour, sure_colour = _colour(rgb)
    shape, sure_shape, angles = _shape(track)
    motion, sure_motion = None, 0.0
    if len(track) > 1:
        times = moments[[spot.frame for spot in track]]
        motion, sure_motion = _motion(track, times, angles, SYMMETRY.get(shape, 0.0), frames)
    x, y = (float(np.mean([getattr(spot, axis) for spot in track])) for axis in "xy")
    return Seen(colour, shape, motion, (sure_colour, sure_shape, sure_motion), tuple(rgb.tolist()), x, y)


def _colour(colour: np.ndarray) -> tuple[str | None, float]:
    """The nearest colour's name and how certain it is."""
    distances = np.linalg.norm(np.array(list(COLOURS.values())) - colour, axis=-1)
    return _nearest(list(COLOURS), distances, _FARTHEST_COLOUR)


def _shape(track: list[Spot]) -> tuple[str | None, float, np.ndarray]:
    """Name, certainty, and the angle in each frame at which that shape fits best, in degrees."""
    templates, owners, angles = _templates()
    portraits = np.stack([spot.portrait.ravel() for spot in track])
    differences = (portraits**2).sum(-1)[:, None] - 2 * portraits @ templates.T + (templates**2).sum(-1)
    each = np.stack([differences[:, owners == i].min(axis=-1) for i in range(len(SHAPES))], axis=-1)
    total = np.maximum(each.mean(axis=0), 0) / GRID**2
    best = int(total.argmin())
    own = owners == best
    name, certainty = _nearest(SHAPES, total, _WORST_PORTRAIT)
    return name, certainty, angles[own][differences[:, own].argmin(axis=-1)]


@functools.cache
def _templates() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Portraits of every shape at every angle, sharp to blurred: (n, GRID * GRID), which shape (n,), angle (n,)."""
    portraits, owners, angles = [], [], []
    fine = _FINER * GRID
    offsets = (np.arange(fine) - (fine - 1) / 2) * 2 * REACH / (GRID - 1) / _FINER
    for i, shape in enumerate(SHAPES):
        unit = _root_of_area(shape)
        y, x = np.meshgrid(offsets * unit, offsets * unit, indexing="ij")
        for angle in np.arange(0, SYMMETRY[shape] or 1, _ANGLE_STEP):
            cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            covered = signed_distance(shape, cosine * x + sine * y, cosine * y - sine * x) < 0
            for blur in _BLURS:
                sigma = blur * _FINER * (GRID - 1) / (2 * REACH)
                soft = scipy.ndimage.gaussian_filter(covered.astype(np.float32), sigma)
                portraits.append(soft.reshape(GRID, _FINER, GRID, _FINER).mean(axis=(1, 3)).ravel())
                owners.append(i)
                angles.append(angle)
    return np.array(portraits), np.array(owners), np.array(angles)


def _root_of_area(shape: str) -> float:
    """The square root of a unit shape's area."""
    line = np.linspace(-1, 1, 401)
    y, x = np.meshgrid(line, line, indexing="ij")
    return 2 * float(np.sqrt((signed_distance(shape, x, y) < 0).mean()))


def _motion(
    track: list[Spot], times: np.ndarray, angles: np.ndarray, symmetry: float, frames: int
) -> tuple[str, float]:
    """The motion that stands out most over what it needs to be one, and by how much."""
    x, y, size = np.array([(spot.x, spot.y, np.log(spot.area) / 2) for spot in track]).T
    line = times - times.mean()
    right, down, growth = (float(line @ values / (line @ line)) for values in (x, y, size))
    turn = 0.0
    if symmetry:
        steps = np.diff(angles)
        turn = abs(float(np.sum(steps - symmetry * np.round(steps / symmetry))))
    strengths = {
        "left": -right / _LEAST_TRAVEL,
        "right": right / _LEAST_TRAVEL,
        "up": -down / _LEAST_TRAVEL,
        "down": down / _LEAST_TRAVEL,
        "grows": growth / _LEAST_GROWTH,
        "shrinks": -growth / _LEAST_GROWTH,
        "turns": turn / (_LEAST_TURN * least_turn(frames)),
        "still": 1.0,
    }
    first, second = sorted(strengths.values(), reverse=True)[:2]
    return max(strengths, key=strengths.get), 1 - max(second, 0) / first


def _nearest(names: list[str] | tuple[str, ...], distances: np.ndarray, limit: float) -> tuple[str | None, float]:
    """The name at the least distance, None beyond `limit`, and how much nearer it is than the second."""
    first, second = np.argsort(distances)[:2]
    certainty = float(1 - distances[first] / max(distances[second], 1e-9))
    return (names[first] if distances[first] <= limit else None), certainty
