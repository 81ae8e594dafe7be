"""Captions in English and Chinese, written from facts in several wordings, and read back strictly.

Each language is one table of phrases. Writing chooses among them by a seed; reading turns them into a grammar, so a
caption is read exactly if it could have been written.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np

from lcv_jax.data.toy.facts import (
    COLOURS,
    MOST_OBJECTS,
    PATTERNS,
    SHAPES,
    TONES,
    Facts,
    Ground,
    Object,
    generator,
    pick,
)
from lcv_jax.errors import InputError

EXAMPLE = "A red circle moves up and a blue star spins on a plain white background."
_UNTOLD = 0.15  # share of the captions that leave the ground out


_MOTION, _GROUND = "motion", "ground"

Told = tuple[str, ...]
"""What a sentence tells besides colours and shapes: motion, ground, both in this order, or neither."""


class Captions(TypedDict):
    """One caption in each language."""

    en: str
    zh: str


@dataclasses.dataclass(frozen=True)
class Language:
    """The phrases of one language, in lower case.

    colours: with the article that they take, where there are articles. thing: an object, of {colour} and {shape}.
    motions: verb phrases, put behind an object by `clause`. patterns: grounds, of {tone}. joints: what stands between
    objects, and before the last; list_joints: the same where no motions are told. sentences: of {things} and {ground},
    by what they tell.
    """

    colours: Mapping[str, str]
    shapes: Mapping[str, str]
    thing: str
    motions: Mapping[str, tuple[str, ...]]
    clause: str
    joints: tuple[str, str]
    list_joints: tuple[str, str]
    tones: Mapping[str, str]
    patterns: Mapping[str, str]
    sentences: Mapping[Told, tuple[str, ...]]
    full_stop: str


ENGLISH = Language(
    colours={colour: f"{'an' if colour == 'orange' else 'a'} {colour}" for colour in COLOURS},
    shapes={shape: shape for shape in SHAPES},
    thing="{colour} {shape}",
    motions={
        "still": ("stays still", "does not move", "rests in place"),
        "left": ("moves to the left", "slides left", "drifts to the left"),
        "right": ("moves to the right", "slides right", "drifts to the right"),
        "up": ("moves up", "rises", "drifts upwards"),
        "down": ("moves down", "sinks", "drifts downwards"),
        "grows": ("grows", "gets bigger", "becomes larger"),
        "shrinks": ("shrinks", "gets smaller", "becomes smaller"),
        "turns": ("turns", "spins", "rotates in place"),
    },
    clause="{thing} {motion}",
    joints=(", ", " and "),
    list_joints=(", ", " and "),
    tones={tone: tone for tone in TONES},
    patterns={pattern: f"a {pattern} {{tone}} background" for pattern in PATTERNS},
    sentences={
        (_MOTION, _GROUND): ("{things} on {ground}", "on {ground}, {things}", "in front of {ground}, {things}"),
        (_MOTION,): ("{things}",),
        (_GROUND,): ("{things} on {ground}", "a picture of {things} on {ground}", "{ground} with {things} on it"),
        (): ("{things}", "a picture of {things}"),
    },
    full_stop=".",
)
CHINESE = Language(
    colours={
        "red": "红色",
        "orange": "橙色",
        "yellow": "黄色",
        "green": "绿色",
        "cyan": "青色",
        "blue": "蓝色",
        "purple": "紫色",
        "pink": "粉色",
    },
    shapes={
        "circle": "圆形",
        "square": "正方形",
        "triangle": "三角形",
        "star": "五角星",
        "heart": "爱心",
        "cross": "十字",
    },
    thing="一个{colour}的{shape}",
    motions={
        "still": ("静止不动", "停在原地", "一动不动"),
        "left": ("向左移动", "往左滑动", "慢慢移向左边"),
        "right": ("向右移动", "往右滑动", "慢慢移向右边"),
        "up": ("向上移动", "缓缓上升", "慢慢移向上方"),
        "down": ("向下移动", "缓缓下降", "慢慢移向下方"),
        "grows": ("逐渐变大", "越来越大", "慢慢放大"),
        "shrinks": ("逐渐变小", "越来越小", "慢慢缩小"),
        "turns": ("在旋转", "原地转动", "不停地旋转"),
    },
    clause="{thing}{motion}",
    joints=("，", "，"),
    list_joints=("、", "和"),
    tones={"white": "白色", "beige": "米色", "grey": "灰色", "navy": "深蓝色", "black": "黑色"},
    patterns={
        "plain": "纯{tone}背景",
        "striped": "{tone}条纹背景",
        "checked": "{tone}方格背景",
        "dotted": "{tone}圆点背景",
    },
    sentences={
        (_MOTION, _GROUND): ("在{ground}上，{things}", "{ground}前，{things}", "{things}，后面是{ground}"),
        (_MOTION,): ("{things}",),
        (_GROUND,): ("{ground}上有{things}", "一张图片，{ground}上有{things}", "{things}，后面是{ground}"),
        (): ("{things}", "图中有{things}"),
    },
    full_stop="。",
)
LANGUAGES: Mapping[str, Language] = {"en": ENGLISH, "zh": CHINESE}


def write_captions(facts: Facts, seed: int) -> Captions:
    """A caption in each language; the seed chooses wording and order. What the facts do not tell is not mentioned.

    One in seven leaves the ground out even so, so that prompts without one are known to whoever learns from them.
    """
    return Captions(en=write(facts, "en", seed), zh=write(facts, "zh", seed))


def write(facts: Facts, language: str, seed: int) -> str:
    """One caption. Raises InputError on an unknown language."""
    words = _language(language)
    rng = generator([seed, 2, list(LANGUAGES).index(language)])
    ground = facts.ground if rng.random() >= _UNTOLD else None
    told = (*((_MOTION,) if facts.moving else ()), *((_GROUND,) if ground else ()))
    template = pick(rng, words.sentences[told])
    order = np.argsort(rng.random(len(facts.objects)))
    clauses = [_clause(words, facts.objects[i], rng) for i in order]
    between, last = words.joints if facts.moving else words.list_joints
    things = last.join([between.join(clauses[:-1]), clauses[-1]]) if clauses[1:] else clauses[0]
    sentence = template.format(things=things, ground=ground and _grounds(language)[ground])
    return sentence[0].upper() + sentence[1:] + words.full_stop


def parse(caption: str, language: str | None = None) -> Facts:
    """The facts that a caption tells, None where it does not.

    language: "en", "zh" or None, which tries both. Upper case, the full stop and spaces around do not matter; all else
    must be as `write` puts it. Raises InputError on other captions, and on facts that cannot be.
    """
    for name in LANGUAGES if language is None else (language,):
        words = _language(name)
        text = caption.strip().lower().removesuffix(words.full_stop)
        for told, sentence in _sentences(name):
            match = sentence.fullmatch(text)
            if match:
                return _facts(name, told, match.groupdict())
    raise InputError(f"caption {caption!r}: not a sentence of the toy world; expected one such as {EXAMPLE!r}")


def _language(name: str) -> Language:
    if name not in LANGUAGES:
        raise InputError(f"language {name!r}: expected one of {', '.join(LANGUAGES)}")
    return LANGUAGES[name]


def _clause(words: Language, each: Object, rng: np.random.Generator) -> str:
    thing = words.thing.format(colour=words.colours[each.colour], shape=words.shapes[each.shape])
    return words.clause.format(thing=thing, motion=pick(rng, words.motions[each.motion])) if each.motion else thing


def _facts(name: str, told: Told, parts: Mapping[str, str]) -> Facts:
    """What a sentence tells; its parts are the groups of one of `_sentences`."""
    words = LANGUAGES[name]
    objects = [
        Object(
            _key(words.colours, clause["colour"]),
            _key(words.shapes, clause["shape"]),
            _key(words.motions, clause[_MOTION]) if _MOTION in told else None,
        )
        for clause in _clauses(name, told).finditer(parts["things"])
    ]
    ground = _key(_grounds(name), parts[_GROUND]) if _GROUND in told else None
    return Facts(tuple(objects), ground)


@functools.cache
def _grounds(name: str) -> Mapping[Ground, str]:
    """Every ground's phrase."""
    words = LANGUAGES[name]
    every = itertools.starmap(Ground, itertools.product(TONES, PATTERNS))
    return {each: words.patterns[each.pattern].format(tone=words.tones[each.tone]) for each in every}


@functools.cache
def _sentences(name: str) -> tuple[tuple[Told, re.Pattern[str]], ...]:
    """Every sentence as what it tells and a pattern with the groups things and, where it is told, ground."""
    words = LANGUAGES[name]
    ground = _any(_GROUND, _grounds(name).values())
    patterns = []
    for told, templates in words.sentences.items():
        between, last = words.joints if _MOTION in told else words.list_joints
        clause = re.sub(r"\?P<\w+>", "?:", _clauses(name, told).pattern)
        more = rf"(?:(?:{between}{clause}){{0,{MOST_OBJECTS - 2}}}{last}{clause})?"
        for template in templates:
            sentence = re.compile(template.format(things=f"(?P<things>{clause}{more})", ground=ground))
            patterns.append((told, sentence))
    return tuple(patterns)


@functools.cache
def _clauses(name: str, told: Told) -> re.Pattern[str]:
    """One object as a pattern with the groups colour and shape, and motion where it is told."""
    words = LANGUAGES[name]
    thing = words.thing.format(
        colour=_any("colour", words.colours.values()), shape=_any("shape", words.shapes.values())
    )
    phrases = itertools.chain.from_iterable(words.motions.values())
    return re.compile(words.clause.format(thing=thing, motion=_any(_MOTION, phrases)) if _MOTION in told else thing)


def _any(name: str, phrases: Iterable[str]) -> str:
    """A group that matches one of the phrases, the longest first: one may begin with another."""
    return f"(?P<{name}>{'|'.join(map(re.escape, sorted(phrases, key=len, reverse=True)))})"


def _key(phrases: Mapping[Any, str | tuple[str, ...]], phrase: str) -> Any:
    """The fact that a phrase stands for."""
    return next(key for key, each in phrases.items() if phrase in ((each,) if isinstance(each, str) else each))
