"""Clips with a known camera: a view that moves over a large picture, and things that move in front of it."""

import dataclasses

import cv2
import numpy as np

MOVES = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "shake")


def picture(seed: int, height: int = 1500, width: int = 2200) -> np.ndarray:
    """Like a photo to an optical flow: noise of all scales, edges of things, and parts that are nearly flat."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.uniform(60, 190, 3), np.float32)
    for octave in range(1, 8):
        small = rng.normal(size=(max(2, height >> (8 - octave)), max(2, width >> (8 - octave)), 3))
        grown = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        image += grown * np.float32(rng.uniform(0.6, 1.4) * 40 / octave)
    for _ in range(60):
        at = rng.uniform(0, (width, height))
        corners = at + rng.normal(size=(rng.integers(3, 7), 2)) * rng.uniform(20, 150)
        cv2.fillPoly(image, [corners.astype(np.int32)], rng.uniform(0, 255, 3).tolist())
    image += cv2.resize(rng.normal(0, 6, (height // 2, width // 2)).astype(np.float32), (width, height))[..., None]
    sky = rng.uniform(0, 0.3) * height
    fade = np.clip((np.arange(height) - sky) / 60, 0.05, 1)[:, None, None]
    image = image * fade + np.float32(rng.uniform(120, 230, 3)) * (1 - fade)
    return np.clip(image, 0, 255).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Scene:
    """move: of MOVES. speed: widths, log zoom or radians a second; of shake the root mean square. wobble: the same of
    what hands add to any move. things: that move in front. noise: grey levels, standard deviation."""

    move: str
    speed: float
    seed: int
    fps: float = 24.0
    seconds: float = 2.0
    size: tuple[int, int] = (360, 640)
    wobble: float = 0.0
    things: int = 0
    noise: float = 0.0

    def frames(self, ground: np.ndarray) -> np.ndarray:
        """(F, H, W, 3) uint8. ground: a picture at least three times as wide as the view."""
        rng = np.random.default_rng(self.seed)
        count = round(self.seconds * self.fps)
        times = (np.arange(count) - (count - 1) / 2) / self.fps
        # What is a camera that turns right is a view that moves right over the picture; y grows downwards.
        across, down, zoom, roll = np.zeros((4, count))
        sign = {"pan_left": -1, "pan_right": 1, "tilt_up": -1, "tilt_down": 1, "zoom_in": 1, "zoom_out": -1}
        way = sign.get(self.move, rng.choice([-1, 1])) * self.speed * times
        kind = self.move.split("_")[0]
        across, down = across + way * (kind == "pan"), down + way * (kind == "tilt")
        zoom, roll = zoom + way * (kind == "zoom"), roll + way * (kind == "roll")
        for strength in [self.wobble, self.speed if kind == "shake" else 0.0]:
            across, down = across + trembling(rng, times, strength), down + trembling(rng, times, strength)
        height, width = self.size
        tall, wide = ground.shape[:2]
        frames, grain = [], rng.normal(0, self.noise, (4, height, width, 1)).astype(np.float32)
        passing = [Thing.drawn(rng, self) for _ in range(self.things)]
        for k in range(count):
            scale, angle = np.exp(-zoom[k]), -roll[k]
            turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            middle = np.array([wide / 2 + across[k] * width, tall / 2 + down[k] * width])
            shift = middle - turn @ [(width - 1) / 2, (height - 1) / 2]
            view = np.column_stack([turn, shift])
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            frame = cv2.warpAffine(ground, view, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
            for thing in passing:
                thing.put(frame, times[k])
            if self.noise:
                frame = np.clip(frame + grain[rng.integers(4)], 0, 255).astype(np.uint8)
            frames.append(frame)
        return np.stack(frames)


@dataclasses.dataclass(frozen=True)
class Thing:
    """A textured ellipse. at, speed: of its middle, widths and widths a second. radii: widths."""

    pixels: np.ndarray
    at: np.ndarray
    speed: np.ndarray
    radii: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, scene: Scene) -> "Thing":
        width = scene.size[1]
        radii = rng.uniform(0.05, 0.13, 2)
        size = (np.ceil(2 * radii * width)).astype(int)[::-1]
        pixels = cv2.resize(
            rng.integers(0, 256, (12, 12, 3), np.uint8), tuple(size[::-1]), interpolation=cv2.INTER_CUBIC
        )
        angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.4)
        at = rng.uniform((0.25, 0.15), (0.75, 0.4))
        return cls(pixels, at, speed * np.array([np.cos(angle), np.sin(angle)]), radii)

    def put(self, frame: np.ndarray, time: float) -> None:
        height, width = frame.shape[:2]
        tall, wide = self.pixels.shape[:2]
        left, top = (self.at + self.speed * time) * width - (wide / 2, tall / 2)
        move = np.array([[1, 0, left], [0, 1, top]])
        mask = np.zeros((tall, wide), np.uint8)
        cv2.ellipse(mask, (wide // 2, tall // 2), (wide // 2 - 1, tall // 2 - 1), 0, 0, 360, 255, -1)
        mask = cv2.warpAffine(mask, move, (width, height))[..., None] / 255
        drawn = cv2.warpAffine(self.pixels, move, (width, height))
        frame[:] = (frame * (1 - mask) + drawn * mask).astype(np.uint8)


def trembling(rng: np.random.Generator, times: np.ndarray, speed: float) -> np.ndarray:
    """Positions, in widths, that swing 2 to 6 times a second; `speed` is the root mean square of what that comes to."""
    if not speed:
        return np.zeros(len(times))
    rates, phases, shares = rng.uniform(2, 6, 4), rng.uniform(0, 2 * np.pi, 4), rng.dirichlet(np.ones(4))
    amplitude = np.sqrt(shares) * speed / (2 * np.pi * rates)
    return (amplitude * np.sin(2 * np.pi * rates * times[:, None] + phases)).sum(1)


def drawn(seed: int) -> Scene:
    """A scene with everything drawn: one of MOVES, or things before a static camera, which is the tenth."""
    rng = np.random.default_rng(seed)
    kind = [*MOVES, "things"][seed % 10]
    fastest = {"zoom": (0.06, 0.4), "roll": (0.06, 0.5), "shake": (0.1, 0.35)}
    least, most = fastest.get(kind.split("_")[0], (0.04, 0.4))
    return Scene(
        move="static" if kind == "things" else kind,
        speed=float(np.exp(rng.uniform(np.log(least), np.log(most)))),
        seed=seed,
        fps=float(rng.choice([15, 24, 25, 30])),
        seconds=float(rng.uniform(1.4, 2.4)),
        wobble=float(rng.choice([0.0, 0.01])),
        things=int(rng.integers(1, 4)) if kind == "things" else 0,
        noise=float(rng.choice([0.0, 2.0, 5.0])),
    )
