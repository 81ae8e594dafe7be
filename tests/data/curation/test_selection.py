"""Selections are what their conditions say, and their groups draw clips by their weights."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from lcv_jax.command_line import run_recipe
from lcv_jax.data.batching import Turns, streams
from lcv_jax.data.curation import records
from lcv_jax.data.curation.balance import Balance, read_balance
from lcv_jax.data.curation.pipeline import Curation
from lcv_jax.data.curation.selection import GROUPS, Selection, grouped, read_selected, select
from lcv_jax.data.sizes import Sizes
from lcv_jax.data.sources import open_clips
from lcv_jax.errors import InputError
from libraries import clip, library, write

ROOT = pathlib.Path(__file__).parents[3]
STAGE = Selection("stage", smallest_group=1)


def made_of(root, rows):
    """A balanced library of these clips, and the record."""
    made = library(root, rows)
    Balance(clips_each=4).run(made)
    return made, records.clip_records(made, read_balance(made))


def ids(root, name="stage"):
    return pq.read_table(root / "selections" / f"{name}.parquet").column("clip_id").to_pylist()


def told(kind, language, text):
    return {"kind": kind, "language": language, "text": text, "model": "m", "seed": None}


@pytest.mark.smoke
def test_what_is_left_out_is_counted(tmp_path, capsys):
    rows = [
        clip("a", blur=400.0),
        clip("b", blur=50.0),
        clip("c", None, blur=400.0),
        clip("d", blur=400.0, file=None),
        clip("e", blur=400.0, seconds=5.0),
        clip("f", blur=400.0, camera=["pan_left"]),
        clip("g", blur=400.0, phash=[7, 7, 7, 7], seconds=7.0),
        clip("h", blur=400.0, phash=[7, 7, 7, 7], seconds=8.0),
        clip("i", blur=None),
    ]
    made, clips = made_of(tmp_path, rows)
    capsys.readouterr()
    asked = Selection("stage", "blur > 100 and list_contains(camera, 'static')", smallest_group=1)
    select(made, clips, asked)
    assert ids(tmp_path) == ["a", "h"]
    assert capsys.readouterr().out == (
        "selection stage: 9 clips, 8 having a file, 7 being no near-duplicate, 4 where blur > 100 and "
        "list_contains(camera, 'static'), 3 lasting 93 frames at 15 a second, 2 having a caption\n"
    )


def test_lists_are_what_the_cache_reads(tmp_path):
    captions = [
        told("basic", "en", "A cat."),
        told("composed", "en", "A cat, seen from afar."),
        told("composed", "en", "From afar, a cat."),
        told("translated", "zh", "一只猫。"),
        told("summary", "en", " "),
    ]
    made, clips = made_of(tmp_path, [clip("a", captions=captions), clip("b", "Ein Satz, mit \"'\n<b>.")])
    found = select(made, clips, STAGE)
    source = open_clips(str(tmp_path / found.groups[0].list), Sizes.of("480p"), (93,), 15)
    assert [path.resolve() for path in source.files] == [
        (tmp_path / "clips" / f"{name}.mp4").resolve() for name in "ab"
    ]
    assert source.captions[0] == {
        "en-basic": "A cat.",
        "en-composed": "A cat, seen from afar.",
        "en-composed-2": "From afar, a cat.",
        "zh-translated": "一只猫。",
    }
    assert source.captions[1] == {"en-basic": "Ein Satz, mit \"'\n<b>."}
    chinese = select(made, clips, Selection("zh", languages=("zh",), kinds=("translated",)))
    (line,) = (tmp_path / chinese.groups[0].list).read_text("utf-8").splitlines()
    assert json.loads(line) == {"file": "../clips/a.mp4", "captions": {"zh-translated": "一只猫。"}}


def test_a_limit_is_drawn_by_the_seed(tmp_path):
    made, clips = made_of(tmp_path, [clip(f"{n:03d}") for n in range(60)])
    first = select(made, clips, Selection("a", limit=20))
    assert len(ids(tmp_path, "a")) == 20 == sum(group.clips for group in first.groups)
    assert ids(tmp_path, "a") == sorted(ids(tmp_path, "a"))
    select(made, clips, Selection("b", limit=20))
    select(made, clips, Selection("c", limit=20, seed=1))
    assert ids(tmp_path, "a") == ids(tmp_path, "b") != ids(tmp_path, "c")
    select(made, clips, Selection("d", limit=10))
    assert set(ids(tmp_path, "d")) < set(ids(tmp_path, "a"))
    made, clips = made_of(tmp_path / "more", [clip(f"{n:03d}") for n in range(61)])
    select(made, clips, Selection("a", limit=20))
    assert len(set(ids(tmp_path / "more", "a")) & set(ids(tmp_path, "a"))) >= 19


def test_the_same_selection_has_the_same_bytes(tmp_path):
    made, clips = made_of(tmp_path, [clip(f"{n:03d}") for n in range(9)])
    one = select(made, clips, STAGE)
    before = {path.name: path.read_bytes() for path in (tmp_path / "selections").iterdir()}
    assert select(made, clips, STAGE) == one == read_selected(made, "stage")
    assert {path.name: path.read_bytes() for path in (tmp_path / "selections").iterdir()} == before


def test_weights_of_a_group_are_within_its_step():
    weights = np.exp(np.random.default_rng(0).uniform(np.log(0.3), np.log(4), 500))
    groups = grouped(weights, 1)
    assert groups.max() + 1 == 8 == GROUPS
    for number in range(8):
        assert np.ptp(np.log(weights[groups == number])) <= 0.5 * np.log(2) + 1e-9
    assert (np.diff([weights[groups == number].mean() for number in range(8)]) > 0).all()
    wide = np.exp(np.random.default_rng(0).uniform(-7, 7, 500))
    assert grouped(wide, 1).max() + 1 == GROUPS
    assert list(grouped([1.0, 1.0], 1)) == [0, 0]
    assert list(grouped([1.0, 8.0, 1.0], 1)) == [0, 1, 0]


def test_small_groups_join_the_nearer_one():
    weights = [1.0] * 10 + [2.0] * 2 + [8.0] * 10
    assert list(grouped(weights, 1)) == [0] * 10 + [1] * 2 + [2] * 10
    assert list(grouped(weights, 3)) == [0] * 12 + [1] * 10
    assert list(grouped(weights, 99)) == [0] * 22


def test_groups_as_datasets_draw_clips_by_their_weights(tmp_path):
    """As training takes turns: of clips of one form, each as often as its weight says, to what a group rounds."""
    rng = np.random.default_rng(0)
    rows = [
        clip(f"{n:03d}", embedding=(np.eye(16)[n % 5 if n < 60 else 0] + 0.05 * rng.normal(size=16)).tolist())
        for n in range(200)
    ]
    made, clips = made_of(tmp_path, rows)
    found = select(made, clips, STAGE)
    assert len(found.groups) > 1
    table = pq.read_table(tmp_path / "selections" / "stage.parquet").to_pylist()
    members = [[row for row in table if row["group"] == number] for number in range(len(found.groups))]
    shares = [group.weight * group.clips for group in found.groups]
    datasets = [(str(number), [(24, 60, 104)] * group.clips) for number, group in enumerate(found.groups)]
    made_streams = streams(datasets, shares, {(24, 60, 104): 4})
    turns = Turns([stream.share for stream in made_streams], [0] * len(made_streams))
    batches = 200 * 50 // 4
    for _ in range(batches):
        turns.next()
    for stream, count in zip(made_streams, turns.counts, strict=True):
        own = members[stream.source]
        drawn = 4 * count / len(own) / 50
        assert drawn == pytest.approx(np.mean([row["weight"] for row in own]), rel=0.02)
        assert all(abs(np.log(drawn / row["weight"])) < 0.5 * np.log(2) + 0.02 for row in own)


def test_clips_that_are_not_balanced_are_one_group(tmp_path):
    rows = [clip(f"{n}", embedding=np.eye(4)[int(n > 7)].tolist()) for n in range(10)]
    made, clips = made_of(tmp_path, rows)
    assert len(select(made, clips, STAGE).groups) == 2
    (group,) = select(made, clips, Selection("stage", balanced=False, smallest_group=1)).groups
    assert (group.clips, group.weight) == (10, 1.0)


def test_conditions_may_be_percentiles(tmp_path):
    made, clips = made_of(tmp_path, [clip(f"{n:03d}", blur=float(n)) for n in range(100)])
    select(made, clips, Selection("stage", "blur >= (SELECT quantile_cont(blur, 0.1) FROM clips)"))
    assert ids(tmp_path) == [f"{n:03d}" for n in range(10, 100)]


def test_lists_of_groups_that_are_no_more_are_removed(tmp_path):
    rows = [clip(f"{n}", embedding=np.eye(4)[int(n > 7)].tolist()) for n in range(10)]
    made = library(tmp_path, rows)
    Balance(clips_each=4, alpha=1).run(made)
    clips = records.clip_records(made, read_balance(made))
    asked = Selection("a", smallest_group=1)
    assert len(select(made, clips, asked).groups) == 2
    select(made, clips, Selection("a-b", smallest_group=1))
    select(made, clips, Selection("a", smallest_group=9))
    assert sorted(path.name for path in (tmp_path / "selections").glob("*.jsonl")) == [
        "a-b.0.jsonl",
        "a-b.1.jsonl",
        "a.0.jsonl",
    ]


@pytest.mark.parametrize("name", ["curation", "toy_curation"])
def test_recipes_ask_for_what_there_is(tmp_path, name):
    """A good clip is in every selection of theirs."""
    config, about = run_recipe(ROOT / "configs" / f"{name}.py")
    assert isinstance(config, Curation)
    for word in (f"lcv_jax.data.curation run configs/{name}.py", "Hardware:", "Time:"):
        assert word in about
    good = {"width": 1920, "height": 1080, "texture_entropy": 5.0, "dark": 0.0, "watermark": 0.0, "aesthetic": 6.0}
    rows = [clip("good", **good, source_fps=24.0), clip("dull", **good, source_fps=24.0, blur=1.0)]
    for row in rows:
        row["captions"] += [told("told", "en", "A cat.")]
    made, clips = made_of(tmp_path, rows)
    for selection in config.select:
        select(made, clips, selection)
        assert "good" in ids(tmp_path, selection.name)
        assert ("dull" in ids(tmp_path, selection.name)) == (name != "curation")


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"where": "blur > 1000"}, "selection stage: where blur > 1000 leaves none of 3 clips; ask for less"),
        ({"languages": ("zh",)}, "having a caption of languages zh leaves none of 3 clips"),
        ({"kinds": ("summary",)}, "having a caption of kinds summary leaves none of 3"),
        ({"frames": (937,)}, "lasting 937 frames at 15 a second leaves none of 3"),
        ({"where": "sharpness > 1"}, "selection stage, where 'sharpness > 1': .*expected a condition in SQL"),
    ],
)
def test_what_leaves_nothing_is_told(tmp_path, asked, match):
    made, clips = made_of(tmp_path, [clip(name) for name in "abc"])
    with pytest.raises(InputError, match=match):
        select(made, clips, Selection("stage", **asked))


def test_nothing_is_left_of_nothing(tmp_path):
    made, clips = made_of(tmp_path, [clip("a", file=None)])
    with pytest.raises(InputError, match="having a file leaves none of 1 clips"):
        select(made, clips, STAGE)


def test_clips_that_are_not_balanced_are_told(tmp_path):
    made = library(tmp_path, [clip("a")])
    with pytest.raises(InputError, match="run balance"):
        select(made, records.clip_records(made), STAGE)
    Balance().run(made)
    write(made, "shots", [clip("b")])
    write(made, "clips", [clip("b")])
    with pytest.raises(InputError, match="1 of 2 clips are not in the balance; run balance"):
        select(made, records.clip_records(made, read_balance(made)), STAGE)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"name": "../x"}, r"selection '../x': expected a name of letters"),
        ({"limit": 0}, "limit=0: expected at least 1"),
        ({"frames": (90,)}, r"frames=\(90,\): expected numbers 4n \+ 1"),
        ({"frames": ()}, r"frames=\(\): expected numbers 4n \+ 1"),
        ({"size": "big"}, "size 'big': expected 256p"),
    ],
)
def test_settings_that_are_none(wrong, match):
    with pytest.raises(InputError, match=match):
        Selection(**{"name": "stage"} | wrong)


def test_a_selection_that_was_not_made_is_told(tmp_path):
    made, _ = made_of(tmp_path, [clip("a")])
    with pytest.raises(InputError, match=r"stage.json: cannot be read .*; run select"):
        read_selected(made, "stage")
