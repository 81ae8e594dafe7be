"""All stages together, on small videos: what runs, what is taken as it is, what is done anew."""

import dataclasses
import shutil

import pytest

from footage import scene
from lcv_jax.data.curation.annotate import Annotation
from lcv_jax.data.curation.captioning import Captioning
from lcv_jax.data.curation.cuts import Lengths
from lcv_jax.data.curation.engines import EngineSettings
from lcv_jax.data.curation.ingest import Ingest
from lcv_jax.data.curation.library import held
from lcv_jax.data.curation.packaging import Packaging
from lcv_jax.data.curation.pipeline import Curation, open_library, run
from lcv_jax.data.curation.scorers.pictures import Blur, PerceptualHash
from lcv_jax.data.curation.selection import Selection
from lcv_jax.data.curation.shots import Shots
from lcv_jax.data.curation.shown import clips_shown, items_shown, read_clips, summary
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Two videos, one of two shots, a copy, and a file that is none."""
    folder = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a.mp4", "b.mp4")):
        shots = [scene(10 * number + shot, 30, speed=3.0) for shot in range(1 + number)]
        write_video(folder / name, (frame for shot in shots for frame in shot), 25)
        (folder / name).with_suffix(".txt").write_text(f"A view of hills, number {number}.")
    shutil.copy(folder / "a.mp4", folder / "copy.mp4")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def recipe(videos, **changed):
    base = Curation(
        ingest=Ingest(sources=(str(videos),)),
        shots=Shots(lengths=Lengths(least=0.5)),
        annotate=Annotation(scorers=(Blur(), PerceptualHash())),
        caption=Captioning(kinds=()),
        select=(Selection("first", "blur > 0", size="256p", frames=(1,), smallest_group=1),),
        engine=EngineSettings(workers=1),
    )
    return dataclasses.replace(base, **changed)


@pytest.fixture(scope="module")
def done(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("done") / "library"
    return run(
        recipe(videos), str(out), [*("ingest", "shots", "clips", "annotate", "caption", "embed", "balance"), "select"]
    )


def test_all_stages_make_the_record_of_clips(done):
    clips = read_clips(done).to_pylist()
    assert sorted((row["source_id"], row["shot"]) for row in clips) == [("a.mp4", 0), ("b.mp4", 0), ("b.mp4", 1)]
    for row in clips:
        assert (done.root / row["file"]).stat().st_size == row["file_bytes"]
        assert row["blur"] > 0
        assert row["weight"] > 0
        assert row["captions"][0]["text"].startswith("A view of hills")
    lines = (done.root / "selections" / "first.0.jsonl").read_text().splitlines()
    assert len(lines) == 3


def test_what_is_told_of_a_library(done):
    library = open_library(str(done.root))
    told = summary(library)
    assert told == summary(done)
    rows = {line.split()[0]: line.split()[1:5] for line in told.splitlines()[1:7]}
    assert rows["ingest"] == ["3", "1", "0", "3"]
    assert rows["shots"] == ["2", "0", "0", "3"]
    assert "  ingest, 1 rejected: is not a readable video" in told
    assert "  ingest, 1 exact duplicates, left out" in told
    items = items_shown(library, "ingest", "status = 'rejected'", 20)
    assert "broken.mp4: is not a readable video (Invalid data found when processing input); convert it to mp4" in items
    assert items.splitlines()[-1] == "1 rows"
    shown = clips_shown(library, "shot = 1", ("source_id", "shot"), 1)
    assert shown.splitlines() == ["source_id  shot", "b.mp4      1", "1 rows"]
    assert clips_shown(library, None, (), 1).endswith("3 rows, 2 not shown: --limit")
    for call, message in (
        (lambda: clips_shown(library, None, ("blurr",), 1), "--columns blurr: no such field, expected some of clip_id"),
        (lambda: clips_shown(library, "blurr > 1", (), 1), "--where 'blurr > 1': .*blurr"),
        (lambda: items_shown(library, "shot", None, 1), "--stage shot: not in this library, expected one of ingest"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_a_second_run_does_nothing_and_a_changed_setting_what_depends_on_it(videos, done):
    files = {path: path.stat().st_mtime_ns for path in done.root.rglob("*.parquet") if path.parent != done.root}
    only = ["ingest", "shots", "clips", "annotate", "caption", "embed"]
    again = run(recipe(videos), str(done.root), only)
    assert {name: table.key for name, table in again.tables.items()} == {
        name: table.key for name, table in done.tables.items()
    }
    assert {path: path.stat().st_mtime_ns for path in files} == files
    changed = run(recipe(videos, clips=Packaging(crf=30)), str(done.root), only)
    same = {name for name in done.tables if done.tables[name].key == changed.tables[name].key}
    assert same == {"ingest", "shots"}
    assert len(changed.table("annotate").rows()) == 3
    assert {path: path.stat().st_mtime_ns for path in files} == files  # what was there stays


def test_stages_one_by_one(videos, tmp_path):
    out = str(tmp_path / "library")
    with pytest.raises(InputError, match="stage ingest has not been run with these settings; run it first"):
        run(recipe(videos), out, ["shots"])
    run(recipe(videos), out, ["ingest"])
    assert list(open_library(out).tables) == ["ingest"]
    with pytest.raises(InputError, match=r"clips.parquet: cannot be read .* expected the record that run writes"):
        clips_shown(open_library(out), None, (), 1)
    run(recipe(videos), out, ["shots"])
    assert [row["width"] for row in read_clips(open_library(out)).to_pylist()] == [None] * 3


def test_bad_settings_are_told_before_anything_runs(videos, tmp_path):
    with pytest.raises(InputError, match="--only shot: no such stage, expected some of ingest, shots"):
        run(recipe(videos), str(tmp_path / "x"), ["shot"])
    with pytest.raises(InputError, match="--out s3://x: expected a local folder"):
        run(recipe(videos), "s3://x")
    with pytest.raises(InputError, match="x: is no library of curation"):
        open_library(str(tmp_path / "x"))
    with held(tmp_path / "x"), pytest.raises(InputError, match="another run works on this library"):
        run(recipe(videos), str(tmp_path / "x"))


def test_known_libraries_are_told(videos, done, tmp_path):
    config = recipe(videos, ingest=Ingest(sources=(str(videos),), known=(str(done.root),)))
    run(config, str(tmp_path / "library"), ["ingest", "shots"])
    library = open_library(str(tmp_path / "library"))
    assert len(library.table("shots").outcomes()) == 0
    assert "  ingest, 3 exact duplicates, left out" in summary(library)
