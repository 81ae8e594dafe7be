"""Sources of pairs for refinement, and of clips that are worth refining (SPEC 8).

The low clip of a pair is the other one with frames left out, made smaller, and degraded. `data/cache.py` brings it
through the autoencoder and upsamples it exactly as sampling does (`data/upsample.py`, `data/window.py`), so that what
refinement is trained on has the form that it meets.
"""

import dataclasses
import zlib

import numpy as np

from lcv_jax.data.batching import generator
from lcv_jax.data.degrade import Degrading, degraded
from lcv_jax.data.images import resize_lanczos
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.sizes import Sizes
from lcv_jax.data.sources import Item, Source
from lcv_jax.data.texture import texture
from lcv_jax.errors import InputError

POOR = "poor texture"
"""Why clips are skipped."""


def low_clip(frames: np.ndarray, pairs: Pairs, size: tuple[int, int], key: str, degrading: Degrading) -> np.ndarray:
    """A clip (F, H, W, 3) uint8 as it is before refinement, (F / times, *size, 3) uint8. key: the clip's own; what is
    drawn depends on that and the pairs' seed alone."""
    smaller = resize_lanczos(frames[:: pairs.times], size)
    rng = generator(pairs.seed, zlib.crc32(key.encode()))
    return degraded(smaller, degrading.draw(rng))


@dataclasses.dataclass(frozen=True)
class _Around:
    """A source whose items are another's, changed or refused."""

    source: Source

    @property
    def name(self) -> str:
        return self.source.name

    def __len__(self) -> int:
        return len(self.source)

    def key(self, number: int) -> str:
        return self.source.key(number)


@dataclasses.dataclass(frozen=True)
class Paired(_Around):
    """A source whose items have their low clip. sizes: of those. Pictures cannot be used."""

    pairs: Pairs
    sizes: Sizes
    degrading: Degrading

    def __getitem__(self, number: int) -> Item:
        item = self.source[number]
        frames = item.frames
        if len(frames) == 1:
            raise InputError(f"{item.key}: is a picture, expected a video: refinement is trained on videos")
        self.pairs.window(len(frames))  # raises where nothing is left to refine
        size = self.sizes.nearest(*frames.shape[1:3])
        return dataclasses.replace(item, low=low_clip(frames, self.pairs, size, item.key, self.degrading))


@dataclasses.dataclass(frozen=True)
class Textured(_Around):
    """A source without the clips whose co-occurrence entropy is below `least` bits (data/texture.py)."""

    least: float

    def __getitem__(self, number: int) -> Item:
        item = self.source[number]
        found = texture(item.frames).entropy
        if found < self.least:
            raise InputError(f"{item.key}: {POOR}, entropy {found:.2f} bits, below {self.least:g}")
        return item
