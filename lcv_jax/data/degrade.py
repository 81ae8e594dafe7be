"""Clips made worse, as refinement meets them: softer, noisier, compressed (SPEC 8).

A degradation is a value, called with frames (F, h, w, 3) uint8 that it gives back in the same shape. Which ones a clip
gets, and how strong, is drawn from a generator. The report names no kinds and no strengths; these are ours, after what
real-world super-resolution trains on (Zhang et al. 2021, Wang et al. 2021), and milder, as the clips that are refined
come from a model and not from a camera.
"""

import dataclasses
import io
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import PIL.Image
import PIL.ImageFilter

from lcv_jax.errors import InputError

Range = tuple[float, float]
FILTERS = ("box", "bilinear", "bicubic", "lanczos")
"""That pictures are made smaller with, by the name that Pillow has for them."""
_CODEC = "libx264"
_RATE = 15  # frames a second that the encoder is told: its decisions depend on it, pixels hardly


class Degradation(Protocol):
    def __call__(self, frames: np.ndarray) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Blur:
    """Gaussian, of `sigma` pixels."""

    sigma: float

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        kernel = PIL.ImageFilter.GaussianBlur(self.sigma)
        return _each(frames, lambda picture: picture.filter(kernel))


@dataclasses.dataclass(frozen=True)
class Shrink:
    """Made `factor` times smaller with one of FILTERS, and large again, bilinear."""

    factor: float
    filter: str

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[1:3]
        small = (max(1, round(width / self.factor)), max(1, round(height / self.factor)))
        down, up = PIL.Image.Resampling[self.filter.upper()], PIL.Image.Resampling.BILINEAR
        return _each(frames, lambda picture: picture.resize(small, down).resize((width, height), up))


@dataclasses.dataclass(frozen=True)
class Noise:
    """Normal, of `sigma` levels, new in every frame. channels: 3 for coloured noise, 1 for the same in all."""

    sigma: float
    channels: int
    seed: int

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        rng, out = np.random.Generator(np.random.PCG64(self.seed)), np.empty_like(frames)
        for frame, target in zip(frames, out, strict=True):
            noise = rng.standard_normal((*frame.shape[:2], self.channels), np.float32)
            target[:] = np.clip(np.round(frame + np.float32(self.sigma) * noise), 0, 255)
        return out


@dataclasses.dataclass(frozen=True)
class Jpeg:
    """Every frame by itself. quality: 1 to 100."""

    quality: int

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        return _each(frames, self._coded)

    def _coded(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        data = io.BytesIO()
        picture.save(data, format="jpeg", quality=self.quality)
        return PIL.Image.open(data)


@dataclasses.dataclass(frozen=True)
class H264:
    """The clip as a stream. crf: 0 to 51, larger is worse. Raises InputError on odd sides."""

    crf: int

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        height, width = frames.shape[1:3]
        if height % 2 or width % 2:
            raise InputError(f"H.264 of frames of {height} x {width}: expected even sides")
        encoder = av.CodecContext.create(_CODEC, "w")
        encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuv420p"
        encoder.time_base, encoder.thread_count = Fraction(1, _RATE), 1
        encoder.options = {"crf": str(self.crf), "preset": "veryfast", "x264-params": "mbtree=0"}
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        packets = [packet for one in (*_numbered(frames), None) for packet in encoder.encode(one)]
        decoded = [frame for packet in (*packets, None) for frame in decoder.decode(packet)]
        return np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])


@dataclasses.dataclass(frozen=True)
class Degrading:
    """How much clips are degraded: `draw` gives each its own composition, in the order of the fields. Strengths are
    drawn uniformly from their ranges."""

    chance: float = 0.6
    """Of each kind to be applied: blur, shrinking, noise, compression."""
    blur: Range = (0.3, 1.2)
    """Sigma in pixels."""
    shrink: Range = (1.0, 1.6)
    """How many times smaller, before it is enlarged again."""
    noise: Range = (1.0, 6.0)
    """Sigma in levels of 255."""
    quality: Range = (50, 95)
    """Of JPEG, for one of two clips that are compressed."""
    crf: Range = (20, 34)
    """Of H.264, for the others."""

    def __post_init__(self):
        if not 0 <= self.chance <= 1:
            raise InputError(f"degrading, chance={self.chance}: expected a number from 0 to 1")
        least = {"blur": 0, "shrink": 1, "noise": 0, "quality": 1, "crf": 0}
        most = {"quality": 100, "crf": 51}
        for name, low in least.items():
            first, last = getattr(self, name)
            if not low <= first <= last <= most.get(name, 1000):
                raise InputError(
                    f"degrading, {name}={getattr(self, name)}: expected two numbers, the smaller first, from {low}"
                    + (f" to {most[name]}" if name in most else "")
                )

    def draw(self, rng: np.random.Generator) -> tuple[Degradation, ...]:
        """One clip's composition. So many numbers are drawn whatever comes of them."""
        applied = dict(zip(("blur", "shrink", "noise", "coded"), rng.random(4) < self.chance, strict=True))
        names = ("blur", "shrink", "noise", "quality", "crf")
        at = {name: _between(getattr(self, name), u) for name, u in zip(names, rng.random(5), strict=True)}
        chosen, coloured, jpeg, seed = rng.random(4)
        made = {
            "blur": Blur(at["blur"]),
            "shrink": Shrink(at["shrink"], FILTERS[int(chosen * len(FILTERS))]),
            "noise": Noise(at["noise"], 3 if coloured < 0.5 else 1, int(seed * 2**32)),
            "coded": Jpeg(round(at["quality"])) if jpeg < 0.5 else H264(round(at["crf"])),
        }
        return tuple(made[name] for name, yes in applied.items() if yes)


def _between(limits: Range, u: float) -> float:
    return float(limits[0] + u * (limits[1] - limits[0]))


def degraded(frames: np.ndarray, by: Sequence[Degradation]) -> np.ndarray:
    """One after the other."""
    for degradation in by:
        frames = degradation(frames)
    return frames


def _each(frames: np.ndarray, change: Callable[[PIL.Image.Image], PIL.Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(change(PIL.Image.fromarray(frame))) for frame in frames])


def _numbered(frames: np.ndarray) -> Iterator[av.VideoFrame]:
    for number, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(format="yuv420p")
        frame.pts = number
        yield frame
