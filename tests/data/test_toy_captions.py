"""Captions tell the facts in both languages, and are read back strictly."""

import collections
import itertools
import re

import pytest

from lcv_jax.data import toy
from lcv_jax.data.toy.captions import EXAMPLE, LANGUAGES, write
from lcv_jax.data.toy.facts import motions_of
from lcv_jax.errors import InputError

WHITE = toy.Ground("white", "plain")


@pytest.mark.parametrize(
    ("caption", "facts"),
    [
        (EXAMPLE, toy.Facts((toy.Object("red", "circle", "up"), toy.Object("blue", "star", "turns")), WHITE)),
        ("An orange heart stays still.", toy.Facts((toy.Object("orange", "heart", "still"),))),
        (
            "a picture of a red cross, a cyan square and a pink star on a dotted navy background",
            toy.Facts(
                (toy.Object("red", "cross"), toy.Object("cyan", "square"), toy.Object("pink", "star")),
                toy.Ground("navy", "dotted"),
            ),
        ),
        (
            "在深蓝色条纹背景上，一个蓝色的正方形逐渐变大，一个红色的圆形向左移动。",
            toy.Facts(
                (toy.Object("blue", "square", "grows"), toy.Object("red", "circle", "left")),
                toy.Ground("navy", "striped"),
            ),
        ),
        (
            "图中有一个绿色的三角形和一个黄色的爱心",
            toy.Facts((toy.Object("green", "triangle"), toy.Object("yellow", "heart"))),
        ),
    ],
)
def test_captions_read_by_hand(caption, facts):
    assert toy.parse(caption) == facts
    assert toy.parse(f"  {caption} ") == facts


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_object_can_be_said_and_read(language):
    every = itertools.product(toy.COLOURS, toy.SHAPES, (*toy.MOTIONS, None))
    for seed, (colour, shape, motion) in enumerate(every):
        if motion not in (*motions_of(shape), None):
            continue
        ground = toy.Ground(list(toy.TONES)[seed % len(toy.TONES)], toy.PATTERNS[seed % len(toy.PATTERNS)])
        facts = toy.Facts((toy.Object(colour, shape, motion),), ground)
        read = toy.parse(write(facts, language, seed))
        assert read.objects == facts.objects
        assert read.ground in (ground, None)


def test_random_facts_are_read_back_in_both_languages():
    told = collections.Counter()
    for seed in range(300):
        facts = toy.sample(seed)
        for shown in (facts, facts.without_motion()):
            captions = toy.write_captions(shown, seed)
            assert list(captions) == ["en", "zh"]
            for language, caption in captions.items():
                read = toy.parse(caption)
                assert read == toy.parse(caption, language)
                assert read.objects == shown.objects
                assert read.ground in (facts.ground, None)
                told[read.ground is not None] += 1
    assert 0.1 < told[False] / told.total() < 0.2


@pytest.mark.parametrize("language", LANGUAGES)
def test_wordings_are_many_and_all_used(language):
    facts = toy.Facts((toy.Object("red", "star", "turns"), toy.Object("blue", "heart", "up")), WHITE)
    captions = {write(facts, language, seed) for seed in range(300)}
    assert len(captions) > 30
    words = LANGUAGES[language]
    for phrase in (*words.motions["turns"], *words.motions["up"]):
        assert any(phrase in caption.lower() for caption in captions)
    assert write(facts, language, 5) == write(facts, language, 5)


def test_sentences_look_like_sentences():
    for seed in range(100):
        captions = toy.write_captions(toy.sample(seed), seed)
        assert re.fullmatch(r"[A-Z][a-z ,]+\.", captions["en"]), captions
        assert re.fullmatch(r"[\u4e00-\u9fff，]+。", captions["zh"]), captions
        assert not re.search(r"\ba [aeiou]", captions["en"].lower())


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_phrase_means_two_things(language):
    words = LANGUAGES[language]
    motions = [phrase for phrases in words.motions.values() for phrase in phrases]
    for phrases in (motions, list(words.colours.values()), list(words.shapes.values()), list(words.tones.values())):
        assert len(set(phrases)) == len(phrases)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "A red panda walks along a branch.",
        "A red circle.. ",
        "A orange circle turns.",
        "A red circle turns.",  # it cannot be seen to
        "A red star turns on a plain white background on a plain white background.",
        "A red star turns and a blue heart.",
        "A red star turns, a blue heart grows.",
        "A red star turns, a blue heart grows, a green star grows and a pink star grows.",
        "A red star and a red heart.",
        "一个红色的圆形 turns。",
        "一个红色的圆形、一个蓝色的爱心向左移动。",
    ],
)
def test_other_sentences_are_refused(caption):
    with pytest.raises(InputError):
        toy.parse(caption)


def test_refusals_say_what_was_expected():
    with pytest.raises(
        InputError, match="caption 'Hello': not a sentence of the toy world; expected one such as 'A red"
    ):
        toy.parse("Hello")
    with pytest.raises(InputError, match="language 'fr': expected one of en, zh"):
        toy.parse(EXAMPLE, "fr")
    with pytest.raises(InputError, match="not a sentence"):
        toy.parse(EXAMPLE, "zh")
    with pytest.raises(InputError, match="language 'fr'"):
        write(toy.sample(0), "fr", 0)
