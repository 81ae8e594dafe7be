"""Clips: all frames of their shots and no others, cropped, at the rate of the source, in the same bytes each time."""

from fractions import Fraction

import av
import numpy as np
import pytest

from footage import bordered, opened_library, scene, work_through
from lcv_jax.data.curation import records
from lcv_jax.data.curation.cuts import Lengths
from lcv_jax.data.curation.ingest import Ingest, md5
from lcv_jax.data.curation.packaging import Packaging
from lcv_jax.data.curation.shots import Shots
from lcv_jax.data.video import read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError


def curated(root, packaging, most=20.0, out="out"):
    """The library after ingest and shots of root/in."""
    ingest = Ingest(sources=(str(root / "in"),), accept=("variable_rate", "rotated"))
    stages = [ingest, Shots(lengths=Lengths(1.0, most)), packaging]
    library = opened_library(root / out, stages)
    for stage in stages[:2]:
        work_through(stage, library)
    return library


def encode(path, frames, times, matrix=None):
    """At times in milliseconds."""
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def test_clips_hold_the_frames_of_their_shots(tmp_path):
    parts = [scene(seed, count) for seed, count in enumerate((60, 20, 75))]
    (tmp_path / "in").mkdir()
    rate = Fraction(30000, 1001)
    write_video(tmp_path / "in" / "x.mp4", bordered(np.concatenate(parts), top=20, bottom=20), rate, crf=12)
    packaging = Packaging()
    library = curated(tmp_path, packaging, most=2.0)
    rows = work_through(packaging, library)
    shots = {row["clip_id"]: row for row in library.table("shots").rows().to_pylist()}
    assert [row["clip_id"] for row in rows] == list(shots)
    assert [(shot["start_frame"], shot["end_frame"]) for shot in shots.values()] == [
        (0, 30),
        (30, 60),
        (80, 118),
        (118, 155),
    ]
    source = read_video(tmp_path / "in" / "x.mp4").frames
    for row in rows:
        shot = shots[row["clip_id"]]
        file = library.root / row["file"]
        assert row["file"] == f"{library.table('clips').key}/files/{row['clip_id'][:2]}/{row['clip_id']}.mp4"
        assert (row["file_md5"], row["file_bytes"]) == (md5(file), file.stat().st_size)
        clip = read_video(file)
        assert clip.fps == rate
        x, y, width, height = shot["crop"]
        expected = source[shot["start_frame"] : shot["end_frame"], y : y + height, x : x + width]
        assert clip.frames.shape == expected.shape == (row["frames"], row["height"], row["width"], 3)
        assert np.abs(clip.frames.astype(int) - expected).mean() < 5
        assert row["seconds"] == pytest.approx(row["frames"] / float(rate))
    assert sum(row["frames"] for row in rows) == 60 + 75
    assert library.table("clips").rows().schema == records.CLIPS


def test_the_same_bytes_again_whatever_was_left(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "x.mp4", scene(0, 40), 25)
    packaging = Packaging(crf=24)
    library = curated(tmp_path, packaging)
    (row,) = work_through(packaging, library)
    file = library.root / row["file"]
    left = file.with_name(f".{file.name}.4321.part")
    left.write_bytes(b"half")
    file.write_bytes(b"old")
    (again,) = work_through(packaging, library)
    assert again == row
    assert md5(file) == row["file_md5"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_large_ones_become_smaller_and_none_larger(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "x.mp4", scene(0, 30, 90, 160), 25)
    sizes = {}
    for short in (0, 46, 90, 200):
        packaging = Packaging(max_short_side=short)
        library = curated(tmp_path, packaging, out=str(short))
        (row,) = work_through(packaging, library)
        sizes[short] = row["height"], row["width"]
        assert read_video(library.root / row["file"]).frames.shape[1:3] == sizes[short]
    assert sizes == {0: (90, 160), 46: (46, 82), 90: (90, 160), 200: (90, 160)}


def test_uneven_frames_are_spaced_by_their_times(tmp_path):
    """Ten frames a second, then forty: the average is 16; what shows at each moment stays."""
    count = np.r_[np.arange(40) * 100, 4000 + np.arange(40) * 25]
    levels = np.repeat(np.linspace(40, 240, 80).astype(np.uint8), 1)
    frames = [np.full((48, 64, 3), level, np.uint8) for level in levels]
    encode(tmp_path / "in" / "x.mkv", frames, count)
    packaging = Packaging()
    library = curated(tmp_path, packaging)
    (row,) = work_through(packaging, library)
    assert row["fps"] == pytest.approx(16, rel=0.02)
    assert row["seconds"] == pytest.approx(5.0, abs=0.15)
    shown = read_video(library.root / row["file"]).frames.mean((1, 2, 3))
    moments = np.arange(row["frames"]) / row["fps"] * 1000
    expected = levels[np.searchsorted(count, moments + 2, side="right") - 1]
    assert np.abs(shown - expected).max() < 6


def test_clips_are_upright(tmp_path):
    frames = scene(0, 30, 64, 96)
    encode(tmp_path / "in" / "x.mp4", frames, np.arange(30) * 40, matrix=[0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])
    packaging = Packaging()
    library = curated(tmp_path, packaging)
    (row,) = work_through(packaging, library)
    assert (row["height"], row["width"]) == (96, 64)
    clip = read_video(library.root / row["file"]).frames
    assert np.abs(clip.astype(int) - np.rot90(frames, -1, (1, 2))).mean() < 6


def test_a_source_that_changed_is_rejected_and_a_full_disk_is_not(tmp_path):
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "x.mp4", scene(0, 60), 25)
    packaging = Packaging()
    library = curated(tmp_path, packaging)
    worker = packaging.open(library)
    (task,) = packaging.tasks(library)
    files = library.table("clips").files
    files.parent.mkdir(exist_ok=True)
    files.write_bytes(b"in the way")
    with pytest.raises(RuntimeError, match=r"output .* is not a folder"):
        worker(task.given)
    files.unlink()
    whole = (tmp_path / "in" / "x.mp4").read_bytes()
    (tmp_path / "in" / "x.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged after"):
        worker(task.given)
    write_video(tmp_path / "in" / "x.mp4", scene(0, 50), 25)
    with pytest.raises(InputError, match=r"x\.mp4: ends before frame 60, where a shot was seen; it has changed"):
        worker(task.given)
    assert not [path for path in files.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"crf": 52}, "crf=52: expected 0 to 51"),
        ({"max_short_side": 8}, "max_short_side=8: expected 0, or at least 16"),
    ],
)
def test_settings_are_checked(wrong, match):
    with pytest.raises(InputError, match=match):
        Packaging(**wrong)
