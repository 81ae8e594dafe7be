"""Clips of the toy world by number, without end and without files: what training reads.

Follows the protocol of Grain's random-access data sources, `len(source)` and `source[i]`, and does not import it.
"""

import dataclasses
import json
import zlib
from typing import Any, SupportsIndex

import numpy as np

from lcv_jax.data.toy.drawing import check_size, render
from lcv_jax.data.toy.facts import Facts, sample
from lcv_jax.errors import InputError

SPLITS = ("train", "held_out")
_HELD_OUT_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Form:
    """size: (H, W) and frames of a clip; one frame is a picture. weight: how often, relative to the other forms."""

    size: tuple[int, int]
    frames: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_size(self.size, self.frames)
        if not 0 < self.weight < float("inf"):
            raise InputError(f"weight={self.weight}: expected a positive number")


@dataclasses.dataclass(frozen=True)
class ToySource:
    """`length` records, each a pure function of (seed, split, index), of one of the `forms`.

    counts: as for `facts.sample`. split: the facts of the two splits are disjoint, whatever seeds and lengths: one in
    ten facts, decided by a checksum, is in "held_out", so what is asked for there was never drawn in "train".
    Raises InputError on no forms, unknown splits and negative lengths.
    """

    length: int
    seed: int
    forms: tuple[Form, ...]
    counts: tuple[int, ...] = (1, 2, 3)
    split: str = "train"

    def __post_init__(self) -> None:
        if self.length < 0:
            raise InputError(f"length={self.length}: expected at least 0")
        if not self.forms:
            raise InputError("forms: none given; expected at least one size and number of frames")
        if self.split not in SPLITS:
            raise InputError(f"split {self.split!r}: expected one of {', '.join(SPLITS)}")
        sample(self.seed, self.counts)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: SupportsIndex) -> dict[str, Any]:
        """video: (F, H, W, 3) uint8; caption_en, caption_zh: str; facts: Facts; key: str, unique over splits and
        seeds. Raises IndexError beyond the length.
        """
        index = self._checked(index)
        facts, form = self.facts(index), self.form(index)
        words = self._entropy(index, 2).generate_state(1)
        clip, captions = render(facts, int(words[0]), form.size, form.frames)
        return {
            "video": clip,
            "caption_en": captions["en"],
            "caption_zh": captions["zh"],
            "facts": facts,
            "key": f"{self.split}-{self.seed}-{index}",
        }

    def form(self, index: SupportsIndex) -> Form:
        """Size and length of a record, without drawing it, for sorting records into batches of one shape."""
        index = self._checked(index)
        shares = np.cumsum([form.weight for form in self.forms])
        draw = np.random.Generator(np.random.PCG64(self._entropy(index, 0))).random()
        return self.forms[int(np.searchsorted(shares, draw * shares[-1], side="right"))]

    def facts(self, index: SupportsIndex) -> Facts:
        """What a record shows, without drawing it; a picture's without motions."""
        index = self._checked(index)
        picture = self.form(index).frames == 1
        attempt = 0
        while True:
            facts = sample([self.seed, SPLITS.index(self.split), index, 1, attempt], self.counts)
            facts = facts.without_motion() if picture else facts
            if split_of(facts) == self.split:
                return facts
            attempt += 1

    def _checked(self, index: SupportsIndex) -> int:
        index = index.__index__()
        if not 0 <= index < self.length:
            raise IndexError(f"record {index}: the source has {self.length}")
        return index

    def _entropy(self, index: int, use: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, SPLITS.index(self.split), index, use])


def split_of(facts: Facts) -> str:
    """The split that facts belong to."""
    checksum = zlib.crc32(json.dumps(facts.to_json(), sort_keys=True).encode())
    return SPLITS[checksum % _HELD_OUT_EVERY == 0]
