"""Pictures, and what a camera sees of them: the footage of the curation's corpus.

Pictures are noise of all scales with edges and things in it, or photos of skimage.data where scikit-image is installed.
A view of one is that of a turning camera, by its homography; things are cut out of other pictures and move in front.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

MOVES = ("static", "pan_left", "pan_right", "tilt_down", "tilt_up", "zoom_in", "zoom_out", "roll", "shake")
PICTURES = 48
_PHOTOS = ("astronaut", "camera", "cat", "chelsea", "coffee", "hubble_deep_field", "rocket")


@functools.lru_cache(maxsize=PICTURES)
def picture(number: int, seed: int = 0, height: int = 900, width: int = 1400) -> np.ndarray:
    """(H, W, 3) uint8 RGB; the first ones are photos if there are some."""
    rng = np.random.default_rng([seed, 1, number])
    photos = _photos()
    if number < len(photos):
        return cv2.resize(photos[number], (width, height), interpolation=cv2.INTER_CUBIC)
    image = np.full((height, width, 3), rng.uniform(50, 190, 3), np.float32)
    for octave in range(1, 8):
        cells = max(2, height >> (8 - octave)), max(2, width >> (8 - octave))
        small = (rng.normal(size=(*cells, 1)) + 0.4 * rng.normal(size=(*cells, 3))).astype(np.float32)
        image += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) * (rng.uniform(25, 55) / octave)
    for _ in range(rng.integers(25, 60)):
        at = rng.uniform((0, 0), (width, height))
        shape = (at + rng.normal(size=(rng.integers(3, 8), 2)) * rng.uniform(15, 160)).astype(np.int32)
        cv2.fillPoly(image, [shape], _colour(rng), lineType=cv2.LINE_AA)
    for _ in range(rng.integers(4, 12)):
        ends = rng.uniform((0, 0), (width, height), (2, 2)).astype(int)
        cv2.line(image, tuple(ends[0]), tuple(ends[1]), _colour(rng), int(rng.integers(2, 12)))
    image += rng.normal(0, 5, (height, width, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator) -> list[float]:
    """Most things are rather grey."""
    return (rng.uniform(20, 235) * np.ones(3) + rng.normal(0, 30, 3)).clip(0, 255).tolist()


@functools.cache
def _photos() -> tuple[np.ndarray, ...]:
    try:
        from skimage import data
    except ImportError:
        return ()
    found = []
    for name in _PHOTOS:
        try:
            photo = getattr(data, name)()
        except (OSError, ModuleNotFoundError):  # those that it would have to fetch
            continue
        found.append(np.ascontiguousarray(photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, -1)))
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class Path:
    """Of a camera, by frame: yaw to the right and pitch up in radians, which at the focal length used are widths; log
    zoom; roll clockwise."""

    yaw: np.ndarray
    pitch: np.ndarray
    zoom: np.ndarray
    roll: np.ndarray


def path(rng: np.random.Generator, count: int, fps: float, move: str, speed: float, tremble: float = 0.0005) -> Path:
    """move: of MOVES, or whip: a turn by almost a width within half a second. tremble: of hands, widths, root mean
    square."""
    times = (np.arange(count) - (count - 1) / 2) / fps
    sign = {"left": -1, "right": 1, "down": -1, "up": 1, "in": 1, "out": -1}
    kind, _, way = move.partition("_")
    run = times * speed * sign.get(way, rng.choice([-1, 1]))
    if kind == "whip":
        run = 0.45 * np.tanh(times / 0.2) * rng.choice([-1, 1])
        kind = "pan"
    yaw, pitch, zoom, roll = (run * (kind == name) for name in ("pan", "tilt", "zoom", "roll"))
    hands = speed if kind == "shake" else tremble * (move != "static" or rng.random() < 0.3)
    return Path(yaw + _tremor(rng, times, hands), pitch + _tremor(rng, times, hands), zoom, roll)


def _tremor(rng: np.random.Generator, times: np.ndarray, strength: float) -> np.ndarray:
    """Of 2 to 7 Hz."""
    waves = sum(
        np.sin(2 * np.pi * (rate * times + rng.random())) * rng.uniform(0.5, 1) for rate in rng.uniform(2, 7, 6)
    )
    return strength * waves / max(1e-9, float(np.sqrt(np.mean(waves**2))))


def views(
    ground: np.ndarray, way: Path, size: tuple[int, int], at: tuple[float, float] = (0.5, 0.5)
) -> Iterator[np.ndarray]:
    """What a camera sees of a picture far away. at: where it looks at first, as shares of the picture."""
    width, height = size
    camera = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    tall, wide = ground.shape[:2]
    scale = max(1.0, 0.9 * width / 480)  # pictures are seen at about their own sharpness
    plane = np.array([[scale * width, 0, at[0] * wide], [0, scale * width, at[1] * tall], [0, 0, 1.0]])
    for yaw, pitch, zoom, roll in zip(way.yaw, way.pitch, way.zoom, way.roll, strict=True):
        lens = camera @ np.diag([np.exp(zoom), np.exp(zoom), 1.0])
        look = plane @ _turned(yaw, -pitch, roll) @ np.linalg.inv(lens)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        yield cv2.warpPerspective(ground, look, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)


def _turned(right: float, down: float, clockwise: float) -> np.ndarray:
    """What turns directions of the camera into those of the world: x to the right, y down, z ahead."""
    a, b, c = (np.array([np.cos(x), np.sin(x)]) for x in (right, down, clockwise))
    about_y = np.array([[a[0], 0, a[1]], [0, 1, 0], [-a[1], 0, a[0]]])
    about_x = np.array([[1, 0, 0], [0, b[0], b[1]], [0, -b[1], b[0]]])
    about_z = np.array([[c[0], -c[1], 0], [c[1], c[0], 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


@dataclasses.dataclass(frozen=True)
class Thing:
    """What moves in front: a cut-out of another picture, an ellipse. at, speed: widths, and widths a second."""

    pixels: np.ndarray
    at: np.ndarray
    speed: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, size: tuple[int, int], fast: float = 0.3) -> "Thing":
        radii = np.maximum(4, rng.uniform(0.04, 0.1, 2) * size[0]).astype(int)
        ground = picture(int(rng.integers(PICTURES)))
        left, top = rng.integers(0, 400, 2)
        angle = rng.uniform(0, 2 * np.pi)
        at = rng.uniform((0.2, 0.1), (0.8, 0.9 * size[1] / size[0]))
        cut = ground[top : top + 2 * radii[1], left : left + 2 * radii[0]]
        return cls(cut, at, rng.uniform(0.2, 1) * fast * np.array([np.cos(angle), np.sin(angle)]))

    def put(self, frame: np.ndarray, time: float) -> None:
        width = frame.shape[1]
        tall, wide = self.pixels.shape[:2]
        left, top = (self.at + self.speed * time) * width
        move = np.array([[1, 0, left - wide / 2], [0, 1, top - tall / 2]])
        mask = np.zeros((tall, wide), np.uint8)
        cv2.ellipse(mask, (wide // 2, tall // 2), (wide // 2 - 2, tall // 2 - 2), 0, 0, 360, 255, -1, cv2.LINE_AA)
        share = cv2.warpAffine(mask, move, (width, frame.shape[0]))
        shown = cv2.warpAffine(self.pixels, move, (width, frame.shape[0]))
        x, y, wide, tall = cv2.boundingRect(share)
        box = np.s_[y : y + tall, x : x + wide]
        part = share[box][..., None] / np.float32(255)
        frame[box] = (frame[box] * (1 - part) + shown[box] * part).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Look:
    """How a shot is taken."""

    size: tuple[int, int]
    fps: int
    count: int
    move: str = "static"
    speed: float = 0.0
    things: int = 0
    fast: float = 0.3
    ground: int = 0
    light: float = 1.0

    def frames(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        ground = picture(self.ground)
        way = path(rng, self.count, self.fps, self.move, self.speed)
        moving = [Thing.drawn(rng, self.size, self.fast) for _ in range(self.things)]
        at = tuple(rng.uniform(0.35, 0.65, 2))
        grain = np.repeat(rng.normal(0, 2, (4, self.size[1], self.size[0], 1)).astype(np.int16), 3, -1)
        for number, frame in enumerate(views(ground, way, self.size, at)):
            for thing in moving:
                thing.put(frame, number / self.fps - self.count / self.fps / 2)
            if self.light != 1:
                frame = cv2.convertScaleAbs(frame, alpha=self.light)
            yield cv2.add(frame, grain[number % 4], dtype=cv2.CV_8U)


def any_look(rng: np.random.Generator, size: tuple[int, int], fps: int, seconds: float, **fixed: Any) -> Look:
    """A shot as films have them: it moves a little, and things move in it."""
    move = str(rng.choice(MOVES[:7]))
    speed = float(rng.uniform(0.04, 0.12))
    told = {"move": move, "speed": speed, "things": int(rng.integers(0, 4)), "ground": int(rng.integers(PICTURES))}
    return Look(size, fps, round(seconds * fps), **(told | fixed))
