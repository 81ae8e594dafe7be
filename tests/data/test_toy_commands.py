"""`python -m lcv_jax.data.toy` and contact sheets."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.data.images import read_image
from lcv_jax.data.toy import __main__ as command
from lcv_jax.data.video import read_metadata, read_video
from lcv_jax.errors import InputError


def test_writes_videos_that_show_what_they_say(tmp_path, capsys):
    out = tmp_path / "new" / "folder"
    assert command.main(["--out", str(out), "--count", "3", "--size", "64x96", "--frames", "9", "--seed", "5"]) == 0
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert sorted(path.name for path in out.iterdir()) == [
        "0005.mp4",
        "0006.mp4",
        "0007.mp4",
        "captions.jsonl",
        "sheet.png",
    ]
    for line in lines:
        facts = toy.Facts.from_json(line["facts"])
        clip = read_video(out / line["file"])
        assert clip.frames.shape == (9, 64, 96, 3)
        assert clip.fps == 15
        assert toy.judge(clip.frames).facts == facts
        assert toy.parse(line["en"]).objects == toy.parse(line["zh"]).objects == facts.objects
        assert read_metadata(out / line["file"]) == line
    assert capsys.readouterr().out == f"{out}: 3 clips, captions.jsonl, sheet.png\n"


def test_writes_pictures(tmp_path):
    assert command.main(["--out", str(tmp_path), "--count", "2", "--size", "33x64", "--frames", "1"]) == 0
    for line in map(json.loads, (tmp_path / "captions.jsonl").read_text().splitlines()):
        facts = toy.Facts.from_json(line["facts"])
        assert not toy.parse(line["en"]).moving
        assert toy.judge(read_image(tmp_path / line["file"])).facts == facts.without_motion()
    assert read_image(tmp_path / "sheet.png").shape[2] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "96"], "--size 96: expected HEIGHTxWIDTH, such as 96x160"),
        (["--size", "16x64"], "size=(16, 64): expected (height, width), each at least 32 pixels"),
        (["--size", "33x64"], "--size 33x64: expected even sides for a video"),
        (["--frames", "0"], "frames=0: expected at least 1"),
        (["--count", "0"], "--count 0: expected at least 1"),
        (["--objects", "4"], "counts=(4,): expected numbers of objects from 1 to 3"),
        (["--seed", "-1"], "seed=-1: expected an integer from 0, or a sequence of them"),
        (["--fps", "0"], "fps=0: expected a positive number of frames per second"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    assert command.main(["--out", str(tmp_path / "out"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {message}\n"
    assert not (tmp_path / "out").exists()


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert command.main(["--out", str(tmp_path / "out")]) == 2
    assert "is not a folder; choose another name" in capsys.readouterr().err


def test_interruption_is_one_line(tmp_path, capsys, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "write_video", interrupt)
    assert command.main(["--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err.startswith("error: interrupted")


def test_the_module_is_a_command():
    done = subprocess.run(
        [sys.executable, "-m", "lcv_jax.data.toy", "--out", "x", "--count", "0"],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (2, "error: --count 0: expected at least 1\n")


def test_a_sheet_shows_rows_of_frames():
    clips = [np.full((frames, 4, 6, 3), level, np.uint8) for level, frames in ((10, 9), (20, 9), (30, 1))]
    clips[0][:] += np.arange(9, dtype=np.uint8)[:, None, None, None]
    sheet = toy.contact_sheet(clips, columns=2, frames=3, gap=2)
    assert sheet.shape == (2 * 6 + 2, 2 * (3 * 8 + 4) - 2, 3)
    corners = sheet[2::6, 2::8, 0]  # of the first column; the second is further right
    assert corners[0, :3].tolist() == [10, 14, 18]
    assert corners[1, :3].tolist() == [20, 20, 20]
    assert sheet[2, 28 + 2 :: 8, 0][:2].tolist() == [30, 255]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), r"frames of shapes \[\], expected one shape"),
        (([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 5, 4, 3), np.uint8)],), "expected one shape"),
        (([np.zeros((1, 4, 4, 3))],), "expected one shape, .* uint8"),
        (([np.zeros((1, 4, 4, 3), np.uint8)], 0), "columns=0, frames=5: expected at least 1"),
    ],
)
def test_sheets_of_other_things_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        toy.contact_sheet(*arguments)
