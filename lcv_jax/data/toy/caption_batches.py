"""Captions of the toy world with what they tell, without end: what its text encoder learns from."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax

from lcv_jax.data.text import Tokenizer
from lcv_jax.data.toy.captions import LANGUAGES, parse, write
from lcv_jax.data.toy.facts import generator, pick
from lcv_jax.data.toy.labels import labels
from lcv_jax.data.toy.source import Form, ToySource
from lcv_jax.errors import InputError

_FORMS = (Form((64, 64), 13), Form((64, 64), 1))  # half are captions of pictures, which tell no motions
_ENDLESS = 2**62
_WITHOUT_STOP = 0.25  # share of the captions without a full stop, as people type them


@functools.partial(jax.tree_util.register_dataclass, data_fields=["ids", "mask", "labels"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Captions:
    """B tokenized captions of at most L tokens. ids: (B, L) int32. mask: (B, L) bool, False at padding. labels: what
    each tells, by kind, as `labels.labels` makes them."""

    ids: Any
    mask: Any
    labels: Mapping[str, Any]


class CaptionBatches:
    """Batches of captions in random languages and wordings, NumPy arrays; each a pure function of the settings and its
    number.

    batch: captions of each. tokens: L; no caption needs more than 64 in the toy world's own tokens. languages: each as
    likely. split, counts: as for `ToySource`. Raises InputError on settings that cannot be.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        batch: int,
        seed: int,
        *,
        tokens: int = 64,
        languages: tuple[str, ...] = tuple(LANGUAGES),
        split: str = "train",
        counts: tuple[int, ...] = (1, 2, 3),
    ):
        if batch < 1 or tokens < 1:
            raise InputError(f"captions, {batch=}, {tokens=}: expected at least 1 of each")
        if not languages or not set(languages) <= set(LANGUAGES):
            raise InputError(f"captions, {languages=}: expected some of {', '.join(LANGUAGES)}")
        self.source = ToySource(_ENDLESS, seed, _FORMS, counts, split)
        self.tokenizer, self.batch, self.tokens, self.languages = tokenizer, batch, tokens, languages
        self._position = 0

    def __iter__(self) -> "CaptionBatches":
        return self

    def __next__(self) -> Captions:
        """Raises InputError where the tokenizer cuts a caption, because the labels would then tell more than it."""
        start = self._position * self.batch
        captions = [self.caption(start + row) for row in range(self.batch)]
        encoded = self.tokenizer.encode(captions, self.tokens)
        if encoded.lengths.max() > self.tokens:
            raise InputError(
                f"captions, tokens={self.tokens}: there is one of {encoded.lengths.max()} tokens; allow for more, or "
                "take a tokenizer made for the toy world"
            )
        self._position += 1
        return Captions(encoded.ids, encoded.mask, labels([parse(caption) for caption in captions]))

    def caption(self, number: int) -> str:
        """The caption of a number, from 0."""
        rng = generator([self.source.seed, number, 3])
        language = pick(rng, self.languages)
        caption = write(self.source.facts(number), language, pick(rng, range(2**31)))
        return caption.removesuffix(LANGUAGES[language].full_stop) if rng.random() < _WITHOUT_STOP else caption

    def get_state(self) -> dict[str, int]:
        """How many batches have been given."""
        return {"position": self._position}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues behind a state. Raises InputError on anything but one that `get_state` gave."""
        position = state.get("position") if set(state) == {"position"} else None
        if not isinstance(position, int) or position < 0:
            raise InputError(f"captions, state {dict(state)!r}: expected a position from 0; take a whole checkpoint")
        self._position = position
