"""The command in several real processes: the numbers of one, files written once, one line about what is wrong."""

import numpy as np
import pytest

import devices
import together
from lcv_jax.data.video import read_metadata
from lcv_jax.data.video_writer import write_video
from lcv_jax.sample import cli

SAMPLE = devices.ROOT / "sample.py"
SMALL = ("--dtype", "float32", "--height", "32", "--width", "48", "--max-text-tokens", "16")


def _arguments(checkpoint, task, *args):
    return (task, "--checkpoint", str(checkpoint), "--negative-prompt", "dull", *SMALL, *args)


@pytest.fixture
def sample(checkpoint_dir, tmp_path):
    """sample(count, devices, mesh, task, ...) in an empty folder. own: further arguments of each process."""

    def call(count, devices, mesh, *args, own=None):
        coordinator = f"localhost:{together.free_port()}"
        shared = (*_arguments(checkpoint_dir, *args), "--compile-cache", tmp_path / "xla", "--mesh", mesh)
        joined = ("--coordinator", coordinator, "--num-processes", count, "--process-id")
        own = own or [()] * count
        commands = [(SAMPLE, *shared, *joined, i, *own[i]) for i in range(count)]
        return together.Together(commands, devices, tmp_path).ended()

    return call


@pytest.fixture
def alone(checkpoint_dir, tmp_path, monkeypatch):
    """The same command in this process, on one device."""

    def call(*args):
        monkeypatch.chdir(tmp_path)
        cli.main([*_arguments(checkpoint_dir, *args), "--compile-cache", ""])

    return call


@pytest.fixture
def moving(tmp_path):
    """A video of 9 frames at 15 a second, 64 x 128."""
    rng = np.random.default_rng(0)
    write_video(tmp_path / "in.mp4", rng.integers(0, 255, (9, 64, 128, 3), np.uint8), 15)


def check_printed(ended, *names):
    """All went well; process 0 told these names and showed bars, the others nothing."""
    for index, (code, out, err, _) in enumerate(ended):
        assert code == 0, err
        # CPU collectives greet one another on the same stream, in halves of lines.
        assert out.count(".mp4") == (len(names) if index == 0 else 0)
        assert ("step" in err) == (index == 0)
    assert all(name in ended[0].out for name in names)


def check_latents(tmp_path, *names, atol=1e-4):
    for name in names:
        there, here = (np.load(tmp_path / f"{where}{name}.npy") for where in ("there", "here"))
        np.testing.assert_allclose(there, here, rtol=0, atol=atol)


def test_prompts_spread_over_data(sample, alone, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "seed": 4}\n{"prompt": "a dog"}\n{"prompt": "rain"}\n')
    task = ("t2v", "--prompts", "p.jsonl", "--num-frames", "5", "--steps", "2", "--seed", "2")
    there = sample(2, 2, "data=2,fsdp=2", *task, "--out", "there.mp4", "--save-latents", "there.npy")
    names = ("-000-seed4", "-001-seed2", "-002-seed2")
    check_printed(there, *(f"there{name}.mp4" for name in names))
    alone(*task, "--out", "here.mp4", "--save-latents", "here.npy")
    check_latents(tmp_path, *names)
    settings = [read_metadata(tmp_path / f"{where}-000-seed4.mp4") for where in ("there", "here")]
    assert settings[0] == settings[1]
    assert settings[0].keys().isdisjoint({"mesh", "coordinator", "num_processes", "process_id"})
    assert not list(tmp_path.glob(".*.part"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp=2,context=2", "data=2,tensor=2"])
def test_continuation_with_cache_in_four_processes(sample, alone, moving, tmp_path, mesh):
    task = ("vc", "--video", "in.mp4", "--prompt", "a cat", "--num-frames", "13", "--num-cond-frames", "5")
    task = (*task, "--steps", "2")
    check_printed(sample(4, 1, mesh, *task, "--out", "there.mp4", "--save-latents", "there.npy"), "there.mp4")
    alone(*task, "--out", "here.mp4", "--save-latents", "here.npy")
    check_latents(tmp_path, "")


@pytest.mark.slow
def test_refinement(sample, alone, moving, tmp_path):
    task = ("refine", "--video", "in.mp4", "--steps", "10", "--height", "64", "--width", "128")
    check_printed(sample(2, 2, "context=4", *task, "--out", "there.mp4", "--save-latents", "there.npy"), "there.mp4")
    alone(*task, "--out", "here.mp4", "--save-latents", "here.npy")
    check_latents(tmp_path, "", atol=2e-4)


@pytest.mark.slow
def test_a_long_video_goes_on_in_other_processes_and_on_another_mesh(sample, alone, tmp_path):
    """Process 0 alone knows the folder: it may be on its own disk."""
    task = ("long", "--prompt", "a tram", "--num-frames", "9", "--num-cond-frames", "5", "--steps", "2", "--resume")
    alone(*task, "--num-segments", "1", "--out", "x.mp4")
    (tmp_path / "elsewhere").mkdir()
    out = [("--out", tmp_path / "x.mp4"), ("--out", tmp_path / "elsewhere" / "x.mp4")]
    check_printed(sample(2, 1, "fsdp=2", *task, "--num-segments", "2", own=out), str(tmp_path / "x.mp4"))
    assert len(list((tmp_path / "x.segments").glob("segment-*.mp4"))) == 2
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "own", "mine", "other"),
    [
        (
            ("t2v", "--prompt", "a", "--out", "x.mp4"),
            [("--seed", "1"), ("--seed", "2")],
            (1, "--seed is 2 for process 1 and 1 for process 0"),
            "process 1 of 2 cannot go on",
        ),
        (
            ("i2v", "--prompt", "a", "--out", "x.mp4"),
            [("--image", "in.png"), ("--image", "no.png")],
            (1, "no such file"),
            "process 1 of 2 cannot go on",
        ),
        (
            ("t2v", "--prompt", "a"),
            [("--out", "in.png/x.mp4"), ("--out", "x.mp4")],
            (0, "in.png is not a folder"),
            "process 0 of 2 cannot go on",
        ),
    ],
    ids=["other seeds", "no input in one", "not writable"],
)
def test_what_is_wrong_is_said_once_and_ends_all(sample, tmp_path, task, own, mine, other):
    import PIL.Image

    PIL.Image.new("RGB", (48, 32)).save(tmp_path / "in.png")
    index, message = mine
    for i, (code, _, err, seconds) in enumerate(sample(2, 1, "fsdp=2", *task, "--num-frames", "5", own=own)):
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert (code, len(errors)) == (2, 1), err
        assert (message if i == index else other) in errors[0]
        assert seconds < 60
    assert not list(tmp_path.glob("*.mp4"))
