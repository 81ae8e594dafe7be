"""Captions with how a clip is filmed, put together at random: which caption, which parts, where and in which words.

All is drawn from one seed, so that a row's seed says its text again. No model is needed.
"""

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from lcv_jax.data.curation import wordings
from lcv_jax.errors import InputError

T = TypeVar("T")
Language = Literal["en", "zh"]

VERSION = 1
"""Of words and of how they are drawn."""
_ENDINGS = ".!?…。！？”\"'"


@dataclasses.dataclass(frozen=True)
class Composing:
    """seed: what is drawn for a clip comes of this and its id. count: of compositions for each language that the clip
    has a caption in. share: of the parts known of a clip, camera, shot size, lens, style and colour tone, that are in a
    composition on average; each has at least one."""

    seed: int = 0
    count: int = 1
    share: float = 0.5
    languages: tuple[Language, ...] = ("en", "zh")

    def __post_init__(self):
        if self.count < 1:
            raise InputError(f"compose, count={self.count}: expected at least 1; leave composed out of kinds for none")
        if not 0 < self.share <= 1:
            raise InputError(f"compose, share={self.share}: expected a share above 0, up to 1")
        if not self.languages or len(set(self.languages)) < len(self.languages):
            raise InputError(f"compose, languages={self.languages}: expected en, zh or both, each once")


@dataclasses.dataclass(frozen=True)
class Filmed:
    """What is known of how a clip is filmed. camera: labels of the camera's movement. said: fields of
    `cinematography.VALUES`, null for what is not known."""

    camera: Sequence[str]
    said: Mapping[str, str | None]

    def parts(self) -> dict[str, tuple[str, ...]]:
        """What can be said, by part, in a fixed order."""
        found = {name: (value,) for name in wordings.NAMES if (value := self.said.get(name)) is not None}
        return ({"camera": tuple(self.camera)} if self.camera else {}) | found


def seed_of(seed: int, clip_id: str, language: str, number: int) -> int:
    """Of a clip's composition: 63 bits, so that it fits a signed field."""
    text = f"{seed}\0{clip_id}\0{language}\0{number}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def compositions(
    settings: Composing, clip_id: str, captions: Mapping[str, Sequence[str]], filmed: Filmed
) -> list[tuple[str, int, str]]:
    """(language, seed, text), none twice. captions: by language, what may be the base. Nothing known, nothing said."""
    made: dict[str, tuple[str, int, str]] = {}
    if filmed.parts():
        for language in settings.languages:
            for number in range(settings.count if captions.get(language) else 0):
                seed = seed_of(settings.seed, clip_id, language, number)
                text = compose(seed, language, captions[language], filmed, settings.share)
                made.setdefault(text, (language, seed, text))
    return list(made.values())


def compose(seed: int, language: str, captions: Sequence[str], filmed: Filmed, share: float) -> str:
    """One composition: a caption drawn from those given, with sentences before and behind it.

    Raises ValueError for labels that have no words, and where there is nothing to compose.
    """
    draw = _Draw(seed)
    parts = filmed.parts()
    if not captions or not parts:
        raise ValueError("compose: expected at least one caption and one part")
    base = draw.one(captions)
    drawn = [name for name in parts if draw.chance(share)] or [draw.one(list(parts))]
    before, behind = [], []
    for name in draw.shuffled(drawn):
        side = before if draw.chance(0.5) else behind
        side.append(_sentence(draw, language, name, parts[name]))
    base = base if base.endswith(tuple(_ENDINGS)) else base + {"en": ".", "zh": "。"}[language]
    return {"en": " ", "zh": ""}[language].join([*before, base, *behind])


def _sentence(draw: "_Draw", language: str, name: str, labels: Sequence[str]) -> str:
    words = wordings.CAMERA[language] if name == "camera" else wordings.NAMES[name][language]
    if unknown := [label for label in labels if label not in words]:
        raise ValueError(f"compose, {name} {unknown[0]!r}: no words for it, expected one of {', '.join(words)}")
    said = _joined(language, [draw.one(words[label]) for label in labels])
    article = "an" if said[0] in "aeiou" else "a"
    return draw.one(wordings.SENTENCES[language][name]).replace("{a}", article).format(said)


def _joined(language: str, said: Sequence[str]) -> str:
    if language == "zh":
        return "，".join(said[:-1]) + ("并" if len(said) > 1 else "") + said[-1]
    return ", ".join(said[:-1]) + (" and " if len(said) > 1 else "") + said[-1]


class _Draw:
    """Draws that stay the same from one version of Python to the next, which is promised of random() alone."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def one(self, options: Sequence[T]) -> T:
        return options[int(self._random.random() * len(options))]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        rest = list(options)
        return [rest.pop(int(self._random.random() * len(rest))) for _ in options]
