"""The commands for long videos: what is written, killed and resumed, as a user does it."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from lcv_jax.data import buckets
from lcv_jax.data.video import probe, read_metadata, read_video
from lcv_jax.errors import InputError
from lcv_jax.sample import cli, opened
from lcv_jax.sample.long_video import Segment, Tail
from lcv_jax.sample.segment_folder import SegmentFolder

SMALL = {
    "--height": "32",
    "--width": "48",
    "--num-frames": "9",
    "--num-cond-frames": "5",
    "--steps": "2",
    "--guidance": "1",
    "--enhance-hf": "off",
    "--posterior": "mode",
    "--max-text-tokens": "16",
    "--compile-cache": "",
}
LONG = ("long", "--prompt", "a cat", "--num-segments", "4", "--out", "x.mp4")


def arguments(checkpoint, task, *args):
    small = {name: value for name, value in SMALL.items() if name not in args}
    return [task, "--checkpoint", str(checkpoint), *itertools.chain(*small.items()), *args]


@pytest.fixture
def run(checkpoint_dir, tmp_path, monkeypatch):
    """run("long", "--out", ...) in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: cli.main(arguments(checkpoint_dir, *args))


@pytest.fixture
def refused(run, capsys):
    """refused("long", ...) returns the one line."""

    def call(*args):
        with pytest.raises(SystemExit) as stop:
            run(*args)
        assert stop.value.code == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return call


@pytest.fixture(scope="module")
def undisturbed(checkpoint_dir, tmp_path_factory):
    """A folder in which LONG has run."""
    folder = tmp_path_factory.mktemp("undisturbed")
    before = os.getcwd()
    os.chdir(folder)
    try:
        cli.main(arguments(checkpoint_dir, *LONG))
    finally:
        os.chdir(before)
    return folder


def test_segments_are_videos_and_the_whole_is_they(undisturbed):
    names = sorted(path.name for path in (undisturbed / "x.segments").iterdir())
    assert names == [*(f"segment-00{i}.mp4" for i in range(4)), "tail-003.npz"]
    parts = [read_video(undisturbed / "x.segments" / name).frames for name in names[:4]]
    assert [len(part) for part in parts] == [9, 4, 4, 4]
    whole = read_video(undisturbed / "x.mp4")
    np.testing.assert_array_equal(whole.frames, np.concatenate(parts))
    assert (whole.fps, probe(undisturbed / "x.mp4").frames) == (15, 21)
    settings = read_metadata(undisturbed / "x.mp4")
    assert (settings["task"], settings["num_segments"]) == ("long", 4)
    assert [segment["seed"] for segment in settings["segments"]] == [0, 1, 2, 3]
    assert read_metadata(undisturbed / "x.segments" / "segment-002.mp4")["seed"] == 2


def test_more_segments_later_are_the_same(run, undisturbed, tmp_path):
    run("long", "--prompt", "a cat", "--num-segments", "2", "--out", "x.mp4")
    assert len(read_video(tmp_path / "x.mp4").frames) == 13
    run(*LONG, "--resume")
    assert (tmp_path / "x.mp4").read_bytes() == (undisturbed / "x.mp4").read_bytes()


def start(checkpoint, folder, *args):
    """The command as a process of its own, compiled as in this one."""
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "lcv_jax.sample.cli", *arguments(checkpoint, *args)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(process, folder, appears):
    """Kills it, without warning, as soon as a file of that name pattern is in the folder; False if it was finished."""
    while process.poll() is None and not list(folder.glob(appears)):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def test_killed_and_resumed_gives_the_same_bytes(run, undisturbed, checkpoint_dir, tmp_path):
    """Killed as it begins with the second segment, whose program takes a while to compile."""
    assert kill_when(start(checkpoint_dir, tmp_path, *LONG), tmp_path, "x.segments/tail-000.npz")
    assert not (tmp_path / "x.mp4").exists()
    run(*LONG, "--resume")
    assert (tmp_path / "x.mp4").read_bytes() == (undisturbed / "x.mp4").read_bytes()
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.slow
def test_killed_again_and_again(checkpoint_dir, tmp_path):
    """Within a video's writing, between a video and its tail, within sampling, and while all are being joined."""
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    film = (*LONG, "--steps", "150", "--resume")
    moments = ("x.segments/.segment-000*", "x.segments/segment-000.mp4", "x.segments/tail-001.npz", ".x.mp4.*")
    killed = 0
    for appears in moments:
        killed += kill_when(start(checkpoint_dir, tmp_path / "killed", *film), tmp_path / "killed", appears)
        folder = SegmentFolder(tmp_path / "killed" / "x.segments")
        assert (folder.tail() is None) == (folder.finished() == 0)
    assert killed >= 3
    for name in ("killed", "whole"):
        assert start(checkpoint_dir, tmp_path / name, *film).wait() == 0
    assert (tmp_path / "killed" / "x.mp4").read_bytes() == (tmp_path / "whole" / "x.mp4").read_bytes()


def test_what_is_finished_is_joined_without_weights(run, undisturbed, tmp_path, monkeypatch):
    shutil.copytree(undisturbed / "x.segments", tmp_path / "x.segments")
    monkeypatch.setattr(opened, "load_params", None)
    run(*LONG, "--resume")
    assert (tmp_path / "x.mp4").read_bytes() == (undisturbed / "x.mp4").read_bytes()


def test_only_what_goes_on_the_same_is_resumed(refused, undisturbed, tmp_path):
    folder = tmp_path / "x.segments"
    shutil.copytree(undisturbed / "x.segments", folder)
    assert "holds 4 finished segments: go on with --resume, or delete" in refused(*LONG)
    for option, value, was in [("steps", "3", "2"), ("seed", "1", "0"), ("prompt", "a dog", "'a cat'")]:
        message = refused(*LONG, "--resume", f"--{option}", value)
        assert f"segment 0 in x.segments was made with --{option} {was}, now it is" in message
    message = refused("long", "--prompt", "a", "--num-segments", "5", "--out", "x.mp4", "--resume", "--prompt", "a dog")
    assert "--prompt 'a cat'" in message
    tail = (folder / "tail-003.npz").read_bytes()
    (folder / "tail-003.npz").write_bytes(tail[:100])
    longer = [*LONG, "--resume", "--num-segments", "5"]
    assert "tail-003.npz: is damaged" in refused(*longer)
    (folder / "tail-003.npz").write_bytes(tail)
    (folder / "segment-001.mp4").unlink()
    assert "segment-001.mp4 is missing" in refused(*longer)


def test_a_prompt_for_each_segment_that_may_change_until_it_is_made(run, refused, tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    film = ("interactive", "--prompts", "p.txt", "--out", "x.mp4")
    run(*film)
    (tmp_path / "p.txt").write_text("a cat\na dog\na bird\n")
    run(*film, "--resume")
    assert [s["prompt"] for s in read_metadata(tmp_path / "x.mp4")["segments"]] == ["a cat", "a dog", "a bird"]
    assert len(read_video(tmp_path / "x.mp4").frames) == 17
    (tmp_path / "p.txt").write_text("a cat\na fish\na bird\n")
    assert "segment 1 in x.segments was made with --prompt 'a dog'" in refused(*film, "--resume")
    (tmp_path / "q.jsonl").write_text('{"prompt": "a cat"}\n{"prompt": "a dog", "seed": 1, "negative_prompt": "grey"}')
    run("interactive", "--prompts", "q.jsonl", "--out", "y.mp4")
    np.testing.assert_array_equal(read_video(tmp_path / "y.mp4").frames, read_video(tmp_path / "x.mp4").frames[:13])


def test_an_image_or_a_video_to_start_from(run, undisturbed, tmp_path):
    run("long", "--prompt", "a cat", "--num-segments", "1", "--out", "y.mp4", "--video", str(undisturbed / "x.mp4"))
    assert len(read_video(tmp_path / "y.mp4").frames) == 4


@pytest.mark.slow
def test_refined_and_resumed(run, tmp_path, monkeypatch):
    """At 64 x 64 instead of 720p."""
    monkeypatch.setattr(buckets, "nearest", lambda *shape: (64, 64))
    film = ("long", "--prompt", "a cat", "--refine")
    run(*film, "--num-segments", "2", "--out", "whole.mp4")
    run(*film, "--num-segments", "1", "--out", "x.mp4")
    run(*film, "--num-segments", "2", "--out", "x.mp4", "--resume")
    assert (tmp_path / "x.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    info = probe(tmp_path / "x.mp4")
    assert (info.width, info.height, info.fps, info.frames) == (64, 64, 30, 18 + 8)
    assert len(SegmentFolder(tmp_path / "x.segments").tail().refined) == 10


def segment(index):
    frames = np.full((1, 5, 16, 16, 3), 10 * index, np.uint8)
    return Segment(index, "a", frames, np.zeros((1, 2, 2, 2, 16)), Tail(index, frames[0, :1], frames[0, :2]))


def test_every_moment_between_two_files_is_consistent(tmp_path):
    settings = {"versions": {}}
    folder = SegmentFolder(tmp_path / "x.segments")
    assert (folder.finished(), folder.tail()) == (0, None)
    for index in range(2):
        folder.add(segment(index), 15, settings)
    (tail,) = folder.path.glob("tail-*")
    kept = tail.read_bytes()
    before = folder.tail()
    assert (before.index, before.frames.tolist()) == (1, segment(1).tail.frames.tolist())
    folder.add(segment(2), 15, settings)
    tail.write_bytes(kept)  # the tail before is still there
    assert folder.tail().index == 2
    (folder.path / "tail-002.npz").unlink()  # the video is there, its tail is not yet
    assert folder.tail().index == 1
    np.testing.assert_array_equal(folder.tail().refined, segment(1).tail.refined)


def test_a_tail_is_never_unpickled(tmp_path):
    folder = SegmentFolder(tmp_path)
    folder.add(segment(0), 15, {"versions": {}})
    np.savez(tmp_path / "tail-000.npz", frames=np.array([{}], object))
    with pytest.raises(InputError, match=r"tail-000\.npz: is damaged \(Object arrays"):
        folder.tail()
