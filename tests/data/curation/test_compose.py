"""Compositions: every label in both languages, the same text from the same seed, nothing of the caption lost."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_jax.data.curation import wordings
from lcv_jax.data.curation.cinematography import VALUES
from lcv_jax.data.curation.composing import Composing, Filmed, compose, compositions, seed_of
from lcv_jax.errors import InputError

CAMERA = ("static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out", "roll", "shake")
BASES = {"en": ("A dog runs", "A brown dog runs over grass."), "zh": ("一只狗在跑", "一只棕色的狗跑过草地。")}
ALL = Filmed(
    ("pan_left", "shake"), {"shot_size": "close_up", "lens": "macro", "style": "painting", "colour_tone": "cool"}
)
LABELS = [("camera", label) for label in CAMERA] + [(name, value) for name in VALUES for value in VALUES[name]]
SEEDS = st.integers(0, 2**63 - 1)
LANGUAGES = st.sampled_from(("en", "zh"))
FILMED = st.builds(
    Filmed,
    st.lists(st.sampled_from(CAMERA), unique=True).map(tuple),
    st.fixed_dictionaries({name: st.none() | st.sampled_from(values) for name, values in VALUES.items()}),
)


def filmed(name: str, label: str) -> Filmed:
    return Filmed((label,), {}) if name == "camera" else Filmed((), {name: label})


def test_every_label_has_words_in_both_languages():
    for language in ("en", "zh"):
        assert set(wordings.CAMERA[language]) == set(CAMERA)
        assert {name: set(wordings.NAMES[name][language]) for name in wordings.NAMES} == {
            name: set(values) for name, values in VALUES.items()
        }
        assert set(wordings.SENTENCES[language]) == {"camera", *VALUES}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_two_labels_are_said_alike(language):
    for words in (wordings.CAMERA[language], *(wordings.NAMES[name][language] for name in wordings.NAMES)):
        said = list(itertools.chain.from_iterable(words.values()))
        assert len(set(said)) == len(said)


@pytest.mark.parametrize(("name", "label"), LABELS)
def test_a_label_is_said_in_all_its_wordings(name, label):
    for language in ("en", "zh"):
        words = wordings.CAMERA[language] if name == "camera" else wordings.NAMES[name][language]
        texts = {compose(seed, language, BASES[language][:1], filmed(name, label), 0.5) for seed in range(200)}
        for word in words[label]:
            assert any(word in text for text in texts)
        templates = len(wordings.SENTENCES[language][name])
        assert len(texts) == 2 * templates * len(words[label])  # before and behind the caption


def test_a_text_by_hand():
    text = compose(5, "en", ["A dog runs"], Filmed((), {"shot_size": "extreme_close_up"}), 1.0)
    sentences = ("Shot size: extreme close-up.", "Framing: extreme close-up.", "It is framed as an extreme close-up.")
    assert text in {f"A dog runs. {said}" for said in sentences} | {f"{said} A dog runs." for said in sentences}
    zh = compose(5, "zh", ["狗在跑！"], Filmed(("zoom_in", "shake"), {}), 1.0)
    assert "并" in zh
    assert "狗在跑！" in zh
    assert " " not in zh


@given(SEEDS, LANGUAGES, FILMED, st.floats(0.01, 1.0))
def test_one_caption_stands_in_it_whole_and_the_same_seed_says_the_same(seed, language, known, share):
    if not known.parts():
        with pytest.raises(ValueError, match="at least one caption and one part"):
            compose(seed, language, BASES[language], known, share)
        return
    text = compose(seed, language, BASES[language], known, share)
    assert text == compose(seed, language, BASES[language], known, share)
    assert sum(base in text for base in BASES[language]) == 1
    assert len(text) > min(map(len, BASES[language])) + 2
    assert "{" not in text
    assert text == text.strip()


@given(SEEDS, LANGUAGES)
def test_all_known_parts_are_said_where_all_are_wanted(seed, language):
    text = compose(seed, language, BASES[language][:1], ALL, 1.0)
    for name, labels in ALL.parts().items():
        words = wordings.CAMERA[language] if name == "camera" else wordings.NAMES[name][language]
        assert all(any(word in text for word in words[label]) for label in labels)


def test_the_share_of_parts_is_as_asked():
    said = sum("camera" in compose(seed, "en", ["Fog"], ALL, 0.3).lower() for seed in range(2000))
    # Drawn with 0.3, or alone of five where nothing was drawn: 0.3 + 0.7 ** 5 / 5 = 0.334; 5 standard deviations.
    assert abs(said / 2000 - 0.334) < 0.053


def test_clips_and_numbers_differ():
    settings = Composing(count=3)
    captions = {language: list(texts) for language, texts in BASES.items()}
    made = [compositions(settings, f"clip-{number}", captions, ALL) for number in range(50)]
    texts = [text for clip in made for _, _, text in clip]
    assert len(set(texts)) > 0.95 * len(texts)
    assert len({seed for clip in made for _, seed, _ in clip}) == len(texts)
    for number, clip in enumerate(made):
        assert clip == compositions(settings, f"clip-{number}", captions, ALL)
        for language, seed, text in clip:
            assert compose(seed, language, captions[language], ALL, settings.share) == text
    other = compositions(Composing(count=3, seed=1), "clip-0", captions, ALL)
    assert {seed for _, seed, _ in other}.isdisjoint(seed for _, seed, _ in made[0])


def test_texts_of_one_clip_are_none_twice():
    little = Filmed(("static",), {})
    made = compositions(Composing(count=40, languages=("en",)), "a", {"en": ["Fog."]}, little)
    assert len(made) == len({text for _, _, text in made}) == 12  # 2 wordings, 3 sentences, 2 sides


def test_nothing_known_or_no_caption_is_no_composition():
    assert compositions(Composing(), "a", {"en": ["Fog"]}, Filmed((), {"lens": None})) == []
    assert compositions(Composing(), "a", {}, ALL) == []
    assert [language for language, _, _ in compositions(Composing(), "a", {"zh": ["雾"]}, ALL)] == ["zh"]


def test_seeds_fit_a_signed_field_and_stay_the_same():
    assert seed_of(0, "3fa9c1", "en", 0) == 4291158324013625440  # half of what sha256sum says
    assert all(0 <= seed_of(seed, "a", "zh", 1) < 2**63 for seed in range(100))


def test_what_is_drawn_stays_the_same():
    assert compose(7, "en", BASES["en"], ALL, 0.5) == (
        "Camera movement: it pans left and shakes. A dog runs. Colour tone: cool. Lens: macro."
    )
    assert compose(7, "zh", BASES["zh"], ALL, 0.5) == "运镜方式：镜头向左摇并晃动。一只狗在跑。冷色调。镜头类型：微距。"


def test_labels_without_words_are_told():
    with pytest.raises(ValueError, match="camera 'crane': no words for it, expected one of static, pan_left"):
        compose(0, "en", ["Fog"], Filmed(("crane",), {}), 1.0)
    with pytest.raises(ValueError, match="lens 'unclear': no words"):
        compose(0, "zh", ["雾"], Filmed((), {"lens": "unclear"}), 1.0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"count": 0}, "count=0: expected at least 1"),
        ({"share": 0.0}, "share=0.0: expected a share above 0"),
        ({"share": 1.1}, "share=1.1: expected a share above 0"),
        ({"languages": ()}, "expected en, zh or both"),
        ({"languages": ("en", "en")}, "expected en, zh or both"),
    ],
)
def test_settings_that_cannot_be_are_refused(how, said):
    with pytest.raises(InputError, match=said):
        Composing(**how)
