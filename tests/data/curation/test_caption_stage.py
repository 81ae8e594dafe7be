"""The stage of captions: rows, what is asked for them, what becomes of answers that do not fit, with a real server."""

import json
import pathlib
import re

import numpy as np
import pytest

from captioned_clips import FRAMES, captioned_library, grey
from chat_server import Asked, Reply, busy, chosen, serving
from lcv_jax.data.curation.captioning import Captioning, clip_frames, is_in, language_of
from lcv_jax.data.curation.cinematography import FIELDS, VALUES, read_answer, settled
from lcv_jax.data.curation.composing import Composing, Filmed, compose
from lcv_jax.data.curation.engines import EngineSettings, run_stage, told
from lcv_jax.data.curation.speakers import ModelSettings
from lcv_jax.errors import InputError

KEY = "sk-very-secret-0123456789"
FILMED = {"shot_size": "close_up", "lens": "macro", "style": "unclear", "colour_tone": "warm"}
SAID = {
    "Describe": "A brown dog runs over grass.",
    "Classify": json.dumps(FILMED),
    "into simplified Chinese": "一只棕色的狗跑过草地。",
    "into English": "A cat sleeps.",
    "sentence in English": "A dog runs.",
    "sentence in simplified Chinese": "狗在跑。",
}


def say(asked: Asked) -> str:
    """What a good model answers."""
    (answer,) = (answer for words, answer in SAID.items() if words in asked.text)
    return answer


def stage(url: str | None, *, writer: bool = True, **how) -> Captioning:
    model = {"url": url, "timeout_s": 10.0, "retries": 2}
    video = ModelSettings(name="seer-7b", **model) if url else ModelSettings()
    texts = ModelSettings(name="scribe-1b", **model) if url and writer else ModelSettings()
    return Captioning(video=video, writer=texts, **how)


def caption(tmp_path, made: Captioning, told_caption=None, camera=("pan_left",)):
    """The row of one clip."""
    library = captioned_library(tmp_path, {"a": told_caption}, {"a": camera})
    (task,) = made.tasks(library)
    (row,) = made.open(library)(task.given)
    return row


def by_kind(row) -> dict[tuple[str, str], str]:
    return {(each["kind"], each["language"]): each["text"] for each in row["captions"]}


def test_a_clip_gets_captions_of_all_kinds(tmp_path):
    with serving(say) as server:
        row = caption(tmp_path, stage(server.url), told_caption=" My  dog ")
    assert list(row) == Captioning.schema.names
    texts = by_kind(row)
    assert texts.pop(("composed", "en")).count("dog") == 1
    assert texts.pop(("composed", "zh")).count("狗") == 1
    assert texts == {
        ("basic", "en"): "A brown dog runs over grass.",
        ("told", "en"): "My dog",
        ("translated", "zh"): "一只棕色的狗跑过草地。",
        ("summary", "en"): "A dog runs.",
        ("summary", "zh"): "狗在跑。",
    }
    models = {each["kind"]: each["model"] for each in row["captions"]}
    assert models == {
        "told": None,
        "basic": "seer-7b",
        "translated": "scribe-1b",
        "summary": "scribe-1b",
        "composed": None,
    }
    assert {name: row[name] for name in VALUES} == FILMED | {"style": None}
    assert row["invalid_answers"] == 0
    for each in row["captions"]:
        assert (each["seed"] is not None) == (each["kind"] == "composed")
    assert [SAID["Describe"] in each.text for each in server.asked[2:4]] == [True, True]  # not what was told
    assert [each.body["model"] for each in server.asked] == ["seer-7b"] * 2 + ["scribe-1b"] * 3
    assert [len(each.frames()) for each in server.asked] == [8, 8, 0, 0, 0]
    assert [each.fields for each in server.asked][1] == {name: list(values) for name, values in FIELDS.items()}


def test_a_composition_is_said_again_by_its_seed(tmp_path):
    with serving(say) as server:
        row = caption(tmp_path, stage(server.url, writer=False, compose=Composing(count=3)))
    made = [each for each in row["captions"] if each["kind"] == "composed"]
    assert len(made) == 3
    known = Filmed(("pan_left",), settled(FILMED))
    for each in made:
        assert each["text"] == compose(each["seed"], "en", [SAID["Describe"]], known, 0.5)


def test_frames_are_spread_evenly_and_scaled(tmp_path):
    with serving(say) as server:
        caption(tmp_path, stage(server.url, kinds=("basic",), frames=4, side=48))
    frames = server.asked[0].frames()
    assert [frame.shape for frame in frames] == 4 * [(32, 48, 3)]
    # The middles of four parts of 20 frames: 2.5, 7.5, 12.5, 17.5, rounded down.
    np.testing.assert_allclose([frame.mean() for frame in frames], [grey(at) for at in (2, 7, 12, 17)], atol=4)


def test_no_more_frames_are_shown_than_there_are(tmp_path):
    library = captioned_library(tmp_path, {"a": None}, {"a": ()})
    path = tmp_path / library.table("clips").rows()["file"][0].as_py()
    assert len(clip_frames(path, FRAMES, 100, 512)) == FRAMES
    with pytest.raises(InputError, match="fewer than the 60 frames"):
        clip_frames(path, 60, 8, 512)


@pytest.mark.parametrize(
    ("told_caption", "expected"),
    [
        (None, {}),
        (" ", {}),
        ("A cat sleeps.", {("told", "en"): "A cat sleeps."}),
        ("一只猫在睡觉", {("told", "zh"): "一只猫在睡觉"}),
    ],
)
def test_without_models_what_was_told_stays(tmp_path, told_caption, expected):
    row = caption(tmp_path, stage(None, kinds=("basic", "cinematography", "summary")), told_caption)
    assert by_kind(row) == expected
    assert [row[name] for name in (*VALUES, "invalid_answers")] == 5 * [None]
    composed = caption(tmp_path / "composed", stage(None), told_caption)
    added = {kind for kind, _ in by_kind(composed)} - {kind for kind, _ in expected}
    assert added == ({"composed"} if expected else set())


def test_a_chinese_caption_is_translated_into_english(tmp_path):
    with serving(say) as server:
        made = Captioning(writer=stage(server.url).writer)
        row = caption(tmp_path, made, told_caption="一只猫在睡觉")
    texts = by_kind(row)
    assert texts["translated", "en"] == "A cat sleeps."
    assert texts["summary", "zh"] == "狗在跑。"
    assert texts["summary", "en"] == "A dog runs."


@pytest.mark.parametrize(
    "wrong",
    [
        '{"shot_size": "close up", "lens": "macro", "style": "unclear", "colour_tone": "warm"}',
        '{"shot_size": "Close_Up", "lens": "macro", "style": "unclear", "colour_tone": "warm"}',
        '{"shot_size": "close_up"}',
        '{"shot_size": "close_up", "lens": "macro", "style": "unclear", "colour_tone": "warm", "mood": "warm"}',
        "It is a close-up with warm colours.",
    ],
)
def test_an_answer_that_does_not_fit_is_asked_once_more_and_never_guessed(tmp_path, wrong):
    made = {"kinds": ("cinematography",), "writer": False}
    replies = [wrong, json.dumps(FILMED)]
    with serving(lambda _: replies.pop(0)) as server:
        row = caption(tmp_path / "once", stage(server.url, **made))
    assert row["invalid_answers"] == 1
    assert row["shot_size"] == "close_up"
    first, second = server.asked
    assert second.text.startswith(first.text)
    assert "not of the form" in second.text.removeprefix(first.text)
    assert second.fields == first.fields
    with serving(lambda _: wrong) as server:
        row = caption(tmp_path / "twice", stage(server.url, **made))
    assert row["invalid_answers"] == len(server.asked) == 2
    assert [row[name] for name in VALUES] == 4 * [None]


def test_a_translation_in_the_wrong_language_is_left_out_and_counted(tmp_path):
    with serving(lambda asked: "A dog." if "into simplified" in asked.text else say(asked)) as server:
        row = caption(tmp_path, stage(server.url))
    assert {language for _, language in by_kind(row)} == {"en"}
    assert row["invalid_answers"] == 2


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (json.dumps(FILMED), FILMED),
        (f"```json\n{json.dumps(FILMED)}\n```", FILMED),
        (f" {json.dumps(FILMED, indent=1)}\n", FILMED),
        (f"Here: {json.dumps(FILMED)}", None),
        (json.dumps([FILMED]), None),
        (json.dumps([list(pair) for pair in FILMED.items()]), None),
        (json.dumps(FILMED)[:-1] + ', "lens": "macro"}', None),
        (json.dumps(FILMED | {"lens": None}), None),
        (json.dumps(FILMED | {"lens": ["macro"]}), None),
        (json.dumps(FILMED | {"lens": {"a": "macro"}}), None),
        ("", None),
        ("NaN", None),
        ("[" * 100000, None),
    ],
)
def test_answers_are_read_strictly(text, found):
    assert read_answer(text) == found


def test_languages():
    assert [language_of(text) for text in ("A dog", "狗", "A sign that says 出口", "", "Ein Fuß")] == [
        "en",
        "zh",
        "zh",
        "en",
        "en",
    ]
    assert is_in("A sign that says 出口", "en")
    assert not is_in("狗 dog 在草地上跑", "en")
    assert not is_in("123", "en")
    assert not is_in("A dog", "zh")
    assert is_in("一只 dog", "zh")


def test_items_wait_for_annotate_where_the_camera_is_composed(tmp_path):
    told_captions = dict.fromkeys("abcd", "A dog")
    library = captioned_library(tmp_path, told_captions, {"a": ["shake"], "b": "rejected", "c": "failed"})
    made = {task.id: task.given["camera"] for task in stage(None).tasks(library)}
    assert made == {"a": ["shake"], "b": []}
    assert {task.id for task in stage(None, kinds=("basic",)).tasks(library)} == set("abcd")
    assert {task.size for task in stage(None).tasks(library)} == {FRAMES}


def test_failures_are_tried_again_and_refusals_are_final(tmp_path, monkeypatch):
    """In a worker's own process, by the engine; the key comes from its environment and is written nowhere."""
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)
    names = {"A": "fine", "B": "busy", "C": "refused", "D": "empty"}
    tries: list[str] = []

    def answer(asked):
        name = names[asked.text.split()[-1]]
        tries.append(name)
        refused = Reply(body=chosen(None, refusal=f"not with {KEY}"))
        return {"fine": "狗", "busy": busy(500, KEY), "refused": refused, "empty": Reply(body=chosen(""))}[name]

    with serving(answer) as server:
        writer = ModelSettings(server.url, "scribe-1b", key_variable="TEST_MODEL_KEY", timeout_s=10.0, retries=1)
        made = Captioning(kinds=("translated",), writer=writer)
        library = captioned_library(tmp_path, {name.lower(): name for name in names}, {}, made)
        ended = [each for each in run_stage(made, library, made.tasks(library), EngineSettings(workers=1)) if each]
    table = library.table("caption")
    table.write((row for each in ended for row in each.rows), map(told, ended))
    outcomes = {each.id: each for each in ended}
    assert {name: (each.status, each.attempts) for name, each in outcomes.items()} == {
        "a": ("done", 1),
        "b": ("failed", 2),
        "c": ("rejected", 1),
        "d": ("failed", 2),
    }
    assert [tries.count(name) for name in names.values()] == [1, 4, 1, 2]  # a busy server twice in each of two attempts
    assert "500 - ***" in outcomes["b"].reason
    assert "refused to answer (not with ***)" in outcomes["c"].reason
    assert by_kind(table.rows().to_pylist()[0])["translated", "zh"] == "狗"
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()
    (about,) = (json.loads(path.read_text()) for path in tmp_path.glob("caption-*/stage.json"))
    assert server.url not in json.dumps(about)
    assert "TEST_MODEL_KEY" not in json.dumps(about)


def test_what_decides_rows_and_what_does_not():
    here = stage("http://here:8000/v1")
    same = stage("http://there:8000/v1")
    assert here.decides() == same.decides() == json.loads(json.dumps(here.decides()))
    others = (
        stage("http://here:8000/v1", writer=False),
        stage("http://here:8000/v1", frames=4),
        stage("http://here:8000/v1", kinds=("basic",)),
        stage("http://here:8000/v1", compose=Composing(seed=1)),
        stage(None),
    )
    assert len({json.dumps(each.decides()) for each in (here, *others)}) == 6
    # Frames decide nothing where nobody sees them.
    assert stage(None, frames=4).decides() == stage(None).decides()


def test_what_no_model_is_there_for_is_told(caplog):
    stage(None, kinds=("basic", "composed", "summary")).check()
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "caption: without basic",
        "caption: without summary",
    ]
    caplog.clear()
    stage(None, kinds=("composed",)).check()
    assert not caplog.records


def test_a_server_that_is_not_there_is_told_before_the_stage():
    with pytest.raises(InputError, match="start the server"):
        stage("http://127.0.0.1:9/v1").check()


@pytest.mark.parametrize(("how", "said"), [({"frames": 0}, "frames=0: expected"), ({"side": 8}, "side=8: expected")])
def test_settings_that_cannot_be_are_refused(how, said):
    with pytest.raises(InputError, match=said):
        Captioning(**how)


def test_the_document_lists_all_values():
    text = (pathlib.Path(__file__).parents[3] / "docs" / "curation" / "captions.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (`.*`) \|$", text, re.MULTILINE))
    assert {name: tuple(re.findall(r"`(\w+)`", rows[name])) for name in VALUES} == dict(VALUES)
