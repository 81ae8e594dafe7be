"""What files are taken: real ones of every kind, duplicates, lists and places."""

import json
import pathlib
import re
import shutil
import tempfile
import wave
from fractions import Fraction

import av
import fsspec
import numpy as np
import pytest

from footage import scene
from lcv_jax.data.curation import records
from lcv_jax.data.curation.ingest import Ingest, known_files, unique_sources
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.places import list_videos, local_copy
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

FRAMES = scene(1, 12, 48, 64)


def encoded(path, frames=FRAMES, times=None, codec="libx264", pix_fmt="yuv420p", matrix=None):
    """A video with frames at times in milliseconds, by default 40 ms apart."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = times[number] if times else 40 * number, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def sound(path):
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(16000))


def library_of(stage, root):
    return Library(root).with_stage(stage.name, stage.schema, {"version": stage.version, **stage.decides()}, ())


def ingested(stage, root):
    """Of each item the row or the reason, by source id; written to the library as a run does, without its processes."""
    library = library_of(stage, root)
    table, worker = library.table("ingest"), stage.open(library)
    before = set(table.outcomes().column("id").to_pylist())
    found, rows, outcomes = {}, [], []
    for task in stage.tasks(library):
        if task.id in before:
            continue
        try:
            made, reason = worker(task.given), ""
        except InputError as error:
            made, reason = [], str(error)
        found[task.given["source_id"]] = made[0] if made else reason
        rows += made
        status = "rejected" if reason else "done"
        outcomes.append(
            {"id": task.id, "status": status, "reason": reason, "attempts": 1, "seconds": 0.0, "rows": len(made)}
        )
    table.write(rows, outcomes)
    return library, found


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A folder of what folders of videos hold besides videos, and one that is as it should be."""
    folder = tmp_path_factory.mktemp("strange")
    write_video(folder / "good.mp4", FRAMES, 25)
    whole = (folder / "good.mp4").read_bytes()  # its index stands in front
    write_video(folder / "cut.mp4", scene(3, 40, 96, 128), 25)
    damaged = (folder / "cut.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(damaged[: len(damaged) // 2])
    encoded(folder / "headless.mp4")  # its index stands behind
    (folder / "headless.mp4").write_bytes((folder / "headless.mp4").read_bytes()[:1500])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "tiny.mp4").write_bytes(whole[:100])
    sound(folder / "sound.wav")
    write_video(folder / "one.mp4", FRAMES[:1], 25)
    encoded(folder / "uneven.mp4", times=[0, 40, 80, 160, 200, 300, 340, 380, 420, 460, 500, 540])
    encoded(folder / "rotated.mp4", matrix=[0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30])
    encoded(folder / "deep.mp4", pix_fmt="yuv420p10le")
    encoded(folder / "huge.mp4", np.zeros((3, 2600, 4200, 3), np.uint8))
    (folder / "words.mp4").write_text("this is no video\n" * 100)
    (folder / "archive.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    return folder


REASONS = {
    "cut.mp4": r"cut.mp4: is damaged, \d+ of 40 frames are missing; copy it again",
    "headless.mp4": "headless.mp4: is not a readable video",
    "empty.mp4": "empty.mp4: is empty, 0 bytes",
    "tiny.mp4": "tiny.mp4: has no video stream",
    "sound.wav": "sound.wav: has no video stream",
    "one.mp4": "one.mp4: has 1 frame, expected at least 2",
    "uneven.mp4": "uneven.mp4: its frames come unevenly; --ingest.accept variable_rate takes such files",
    "rotated.mp4": "rotated.mp4: its frames are to be turned by 90 degrees; --ingest.accept rotated takes such files",
    "deep.mp4": r"deep.mp4: has more than 8 bits a colour \(yuv420p10le\); --ingest.accept deep_colour takes",
    "huge.mp4": r"huge.mp4: frames of 4200 x 2600, more than --ingest.max-pixels 9437184",
    "words.mp4": "words.mp4: is not a readable video",
    "archive.zip": "archive.zip: is not a readable video",
}


def test_what_cannot_be_used_is_rejected_with_its_reason(strange, tmp_path):
    library, found = ingested(Ingest(sources=(str(strange),)), tmp_path)
    assert found.keys() == {path.name for path in strange.iterdir()}
    for name, reason in REASONS.items():
        with pytest.raises(InputError, match=reason):
            raise InputError(found[name])
    good = found["good.mp4"]
    assert (good["source_width"], good["source_height"], good["source_fps"], good["source_frames"]) == (64, 48, 25, 12)
    assert good["source_seconds"] == pytest.approx(0.48)
    assert good["bitrate"] == pytest.approx(8 * good["bytes"] / 0.48)
    assert (good["codec"], good["pixel_format"], good["rotation"], good["variable_rate"]) == (
        "h264",
        "yuv420p",
        0,
        False,
    )
    assert [row["source_id"] for row in library.table("ingest").rows().to_pylist()] == ["good.mp4"]


def test_peculiar_files_are_taken_when_asked(strange, tmp_path):
    accept = ("variable_rate", "rotated", "deep_colour")
    _, found = ingested(Ingest(sources=(str(strange),), accept=accept, max_pixels=4200 * 2600), tmp_path)
    assert {name for name, row in found.items() if isinstance(row, dict)} == {
        "good.mp4",
        "uneven.mp4",
        "rotated.mp4",
        "deep.mp4",
        "huge.mp4",
    }
    assert found["uneven.mp4"]["variable_rate"]
    assert found["uneven.mp4"]["source_seconds"] == pytest.approx(0.54 + 1 / found["uneven.mp4"]["source_fps"])
    assert (found["rotated.mp4"]["rotation"], found["rotated.mp4"]["source_width"]) == (90, 48)
    assert found["deep.mp4"]["pixel_format"] == "yuv420p10le"


def test_rounded_timestamps_are_no_variable_rate(tmp_path):
    (tmp_path / "in").mkdir()
    encoded(tmp_path / "in" / "a.mkv", times=[round(n * 1000 / 30) for n in range(12)])
    _, found = ingested(Ingest(sources=(str(tmp_path / "in"),)), tmp_path)
    assert found["a.mkv"]["variable_rate"] is False


def test_of_equal_files_one_goes_on(strange, tmp_path):
    """In a run, in the next one, and in another library; the one that was cut before stays."""
    first = tmp_path / "first"
    first.mkdir()
    for name in ("b.mp4", "c.mp4"):
        shutil.copy(strange / "good.mp4", first / name)
    write_video(first / "other.mp4", FRAMES[::-1], 25)
    library, found = ingested(Ingest(sources=(str(first),)), tmp_path / "library")
    kept, duplicates = unique_sources(library, ())
    assert [row["source_id"] for row in kept] == ["b.mp4", "other.mp4"]
    assert duplicates == {"c.mp4": "b.mp4"}

    shots = Library(library.root, library.tables).with_stage("shots", records.SHOTS, {}, ("ingest",))
    outcome = {"id": "b.mp4", "status": "done", "reason": "", "attempts": 1, "seconds": 0.0, "rows": 0}
    shots.table("shots").write([], [outcome])
    second = tmp_path / "second"
    second.mkdir()
    shutil.copy(strange / "good.mp4", second / "a.mp4")
    ingested(Ingest(sources=(str(first), str(second))), tmp_path / "library")
    kept, duplicates = unique_sources(shots, ())
    assert [row["source_id"] for row in kept] == ["b.mp4", "other.mp4"]
    assert duplicates == {"a.mp4": "b.mp4", "c.mp4": "b.mp4"}

    known = (str(library.root),)
    other, found = ingested(Ingest(sources=(str(second),), known=known), tmp_path / "other")
    kept, duplicates = unique_sources(other, known)
    assert kept == []
    assert duplicates == {"a.mp4": f"{library.root}: {known_files(known[0])[found['a.mp4']['md5']]}"}
    # A file that was cut before the other library was named goes on.
    cut = Library(other.root, other.tables).with_stage("shots", records.SHOTS, {}, ("ingest",))
    cut.table("shots").write([], [outcome | {"id": "a.mp4"}])
    assert [row["source_id"] for row in unique_sources(cut, known)[0]] == ["a.mp4"]


def test_ids_that_clash_are_told(strange, tmp_path):
    """Also across runs, where they would otherwise pass for what was done before."""
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        shutil.copy(strange / "good.mp4", tmp_path / name / "a.mp4")
    one, two, three = (str(tmp_path / name) for name in ("one", "two", "three"))
    library = tmp_path / "library"
    _, found = ingested(Ingest(sources=(one, one, two)), library)
    assert (
        found["a.mp4"] == f"{two}/a.mp4: has the id 'a.mp4' of {one}/a.mp4, which stands for it; a .jsonl list can "
        "give it another"
    )
    _, found = ingested(Ingest(sources=(one, two, three)), library)
    assert found["a.mp4"].startswith(f"{three}/a.mp4: has the id 'a.mp4' of {one}/a.mp4")
    assert ingested(Ingest(sources=(one, two, three)), library)[1] == {}


def test_lists_give_ids_captions_and_licences(strange, tmp_path):
    lines = [
        {"file": "good.mp4", "id": "first", "caption": "Eine Möwe 海鸥", "license": "CC0"},
        {"file": str(strange / "one.mp4")},
        {"file": "gone.mp4"},
    ]
    (strange.parent / "lists").mkdir(exist_ok=True)
    shutil.copy(strange / "good.mp4", strange.parent / "lists" / "good.mp4")
    path = strange.parent / "lists" / "list.jsonl"
    path.write_text("\n\n".join(json.dumps(line) for line in lines), "utf-8")
    _, found = ingested(Ingest(sources=(str(path),)), tmp_path)
    assert found["first"]["told_caption"] == "Eine Möwe 海鸥"
    assert found["first"]["license"] == "CC0"
    assert found[str(strange / "one.mp4")].endswith("has 1 frame, expected at least 2")
    assert found["gone.mp4"].endswith("gone.mp4: no such file")
    plain = path.with_name("list.txt")
    plain.write_text("good.mp4\n\n  other/x.mp4 \n")
    assert [(one.source_id, pathlib.Path(one.uri).name) for one in list_videos(str(plain))] == [
        ("good.mp4", "good.mp4"),
        ("other/x.mp4", "x.mp4"),
    ]


def test_folders_leave_out_what_is_hidden_and_what_lies_beside(tmp_path, monkeypatch):
    for name in ("a.mp4", "a.txt", "a.srt", "b.txt", ".c.mp4", ".git/d.mp4", "deep/e.MOV", "deep/e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f" of {name}\n", "utf-8")
    monkeypatch.chdir(tmp_path.parent)
    found = list_videos(tmp_path.name)  # what is told does not depend on where a run is started
    assert [(one.source_id, one.caption) for one in found] == [
        ("a.mp4", "of a.txt"),
        ("b.txt", None),
        ("deep/e.MOV", "of deep/e.txt"),
    ]
    assert [one.uri for one in found] == [str(tmp_path / one.source_id) for one in found]
    assert found[0].bytes == len(" of a.mp4\n")


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_places_of_fsspec(strange, tmp_path, monkeypatch, scheme):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    place = f"{scheme}://{tmp_path}/videos"
    filesystem, root = fsspec.core.url_to_fs(place)
    filesystem.makedirs(root, exist_ok=True)
    filesystem.pipe_file(f"{root}/a.mp4", (strange / "good.mp4").read_bytes())
    filesystem.pipe_file(f"{root}/a.txt", b"A pan.")
    filesystem.pipe_file(f"{root}/b.mp4", b"")
    filesystem.pipe_file(f"{root}/list.jsonl", b'{"file": "a.mp4", "id": "x"}\n{"file": "gone.mp4"}')
    _, found = ingested(Ingest(sources=(place,)), tmp_path / "library")
    assert found["a.mp4"]["uri"] == f"{place}/a.mp4"
    assert found["a.mp4"]["told_caption"] == "A pan."
    assert found["b.mp4"] == f"{place}/b.mp4: is empty, 0 bytes"
    _, found = ingested(Ingest(sources=(f"{place}/list.jsonl",)), tmp_path / "other")
    assert found["x"]["uri"] == f"{place}/a.mp4"
    assert found["gone.mp4"] == f"{place}/gone.mp4: no such file"
    assert not list((tmp_path / "scratch").iterdir())  # copies are gone


def test_a_copy_is_removed_even_if_its_block_raises(strange, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    fsspec.filesystem("memory").pipe_file("/x/a.mp4", b"1234")

    def failing():
        with local_copy("memory:///x/a.mp4") as path:
            assert path.read_bytes() == b"1234"
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        failing()
    assert not list(tmp_path.iterdir())
    with local_copy(str(strange / "good.mp4")) as path:
        assert path == strange / "good.mp4"  # what is here is not copied


def test_bad_places_and_lists_are_told_in_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.txt").write_text("\n \n")
    (tmp_path / "bad.jsonl").write_text('{"file": "a.mp4"}\n{"path": "b.mp4"}')
    (tmp_path / "number.jsonl").write_text('{"file": "a.mp4", "caption": 3}')
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9.mp4")
    for name, message in (
        ("gone", "gone: no such folder or file, expected videos, or a .jsonl or .txt that lists them"),
        ("empty", "empty: holds no files, expected videos"),
        ("no.txt", "no.txt: lists no files, expected one a line"),
        ("bad.jsonl", 'bad.jsonl, line 2: expected a JSON object with "file"'),
        ("number.jsonl", "a.mp4: caption 3, expected a text"),
        ("latin.txt", "is not UTF-8 text"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            list_videos(str(tmp_path / name))
    with pytest.raises(InputError, match=r"nowhere://x: cannot be opened"):
        list_videos("nowhere://x")
    with pytest.raises(InputError, match=r"--ingest.sources: none"):
        ingested(Ingest(), tmp_path / "library")
    with pytest.raises(InputError, match=r"--ingest.known .*empty: is no library of curation"):
        Ingest(sources=("x",), known=(str(tmp_path / "empty"),)).check()
