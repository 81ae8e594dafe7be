"""Scorers of single pictures: blur, exposure, texture, perceptual hashes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lcv_jax.data.curation.scorers.base import Plain, Sample, Scoring, View, needed, within
from lcv_jax.data.curation.scorers.views import shrunk, spread
from lcv_jax.data.texture import texture

_DARK, _BRIGHT = 16, 239
_HASHED = 32
"""Pixels of the side of the picture whose lowest frequencies are a hash."""


@dataclasses.dataclass(frozen=True)
class Blur(Plain):
    """How sharp the stills are. lines: of the shorter side, to which pictures are brought before they are judged, so
    that a picture that was enlarged counts as blurred."""

    fields: ClassVar[tuple[str, ...]] = ("blur", "blur_p10")
    needs: ClassVar[tuple[View, ...]] = ()

    lines: int = 720

    def __post_init__(self):
        within("blur, lines", self.lines, 64)

    def check(self) -> None:
        needed("cv2")

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        found = []
        for clip in clips:
            sharp = [laplacian_variance(still, self.lines) for still in clip.stills]
            found.append({"blur": float(np.median(sharp)), "blur_p10": float(np.percentile(sharp, 10))})
        return found


@dataclasses.dataclass(frozen=True)
class Exposure(Plain):
    """How much of the stills is nearly black or nearly white."""

    fields: ClassVar[tuple[str, ...]] = ("dark", "bright")
    needs: ClassVar[tuple[View, ...]] = ()

    def check(self) -> None:
        needed("cv2")

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        found = []
        for clip in clips:
            grey = np.stack([_grey(still) for still in clip.stills])
            found.append({"dark": float((grey < _DARK).mean()), "bright": float((grey > _BRIGHT).mean())})
        return found


@dataclasses.dataclass(frozen=True)
class Texture(Plain):
    """Statistics of grey-level co-occurrence (data/texture.py). lines: of the shorter side at most."""

    fields: ClassVar[tuple[str, ...]] = tuple(
        f"texture_{name}" for name in ("entropy", "contrast", "homogeneity", "energy", "correlation")
    )
    needs: ClassVar[tuple[View, ...]] = ()

    lines: int = 288

    def __post_init__(self):
        within("texture, lines", self.lines, 16)

    def check(self) -> None:
        needed("cv2")

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        found = []
        for clip in clips:
            some = [clip.stills[at] for at in spread(3, len(clip.stills))]
            told = dataclasses.asdict(texture(np.stack([shrunk(still, shorter=self.lines) for still in some])))
            found.append({f"texture_{name}": float(value) for name, value in told.items()})
        return found


@dataclasses.dataclass(frozen=True)
class PerceptualHash(Plain):
    """What stills look like from afar, so that copies are found. frames: of a clip. flat: standard deviation of grey
    levels below which a picture shows nothing to know it by; its hash is 0."""

    fields: ClassVar[tuple[str, ...]] = ("phash",)
    needs: ClassVar[tuple[View, ...]] = ()

    frames: int = 5
    flat: float = 4.0

    def __post_init__(self):
        within("perceptual hash, frames", self.frames, 1)
        within("perceptual hash, flat", self.flat, 0)

    def check(self) -> None:
        needed("cv2")

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        return [
            {"phash": [perceptual_hash(clip.stills[at], self.flat) for at in spread(self.frames, len(clip.stills))]}
            for clip in clips
        ]


def laplacian_variance(frame: np.ndarray, lines: int) -> float:
    """Of the luminance of (H, W, 3) uint8, its shorter side brought to `lines`."""
    cv2 = needed("cv2")
    grey = _grey(shrunk(frame, shorter=lines))
    height, width = grey.shape
    if (least := min(height, width)) < lines:
        size = round(width * lines / least), round(height * lines / least)
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC)
    return float(cv2.Laplacian(grey, cv2.CV_32F).var(dtype=np.float64))


def perceptual_hash(frame: np.ndarray, flat: float = 4.0) -> int:
    """64 bits, as a signed number, of (H, W, 3) uint8: which of the 64 lowest frequencies of its luminance, but the
    mean, are above their median. Bits are in the order of rows, the first one the highest. 0 of a flat picture."""
    cv2 = needed("cv2")
    grey = cv2.resize(_grey(frame), (_HASHED, _HASHED), interpolation=cv2.INTER_AREA).astype(np.float32)
    if grey.std() < flat:
        return 0
    low = cv2.dct(grey)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean: brightness, which copies may change
    return int(np.packbits(bits).view(">i8")[0])


def _grey(frame: np.ndarray) -> np.ndarray:
    cv2 = needed("cv2")
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
