"""What is compiled ahead is what runs use, on a mesh of 4 virtual devices; donated arrays; quantised weights there."""

import pathlib

import jax
import pytest

import devices
from lcv_jax.sample import cli, run

PROGRAM = pathlib.Path(__file__).with_name("compiled_ahead.py")
# What takes long to compile.
LARGE = ("_write", "_write_quantised", "encode_text", "_step", "_paste_step", "fill_cache", "sample_step")


def started(checkpoint, folder, *commands):
    return devices.report(PROGRAM, checkpoint, folder, *commands, devices=4)


@pytest.fixture(scope="module")
def report(checkpoint_dir, tmp_path_factory):
    command = "vc --video VIDEO --num-cond-frames 5 --prompt rain --weights int8 --offload text_encoder,kv_cache"
    return started(checkpoint_dir, tmp_path_factory.mktemp("ahead"), command)


def test_a_run_finds_all_that_takes_long_on_disk(report):
    (made,) = report["runs"].values()
    large = {"encode_text": 1, "_step": 4, "fill_cache": 1, "sample_step": 1}
    assert {name: n for name, n in made["ahead"].items() if name in large} == large
    assert made["ahead"]["_write_quantised"] >= 8  # all kinds of projections
    assert not made["run"].keys() & set(LARGE), made["run"]


def test_what_is_donated_is_used_again_on_a_mesh(report):
    """The latents of a step, and the state of the autoencoder's stream, both ways."""
    names = [name for name, _, _ in report["donations"]]
    assert names == ["_step", "sample_step", "_step", "_step"]  # one of two pieces, then three
    for name, donated, shared in report["donations"]:
        assert shared == donated > 0, name


def test_quantised_weights_on_a_mesh_are_those_of_one_device(report):
    found = report["quantised"]
    assert found["cut"] == 8  # every quantised kernel
    assert found["weights"] == 0
    assert found["velocity"] < 1e-4 * found["scale"]


@pytest.mark.slow
def test_other_tasks_find_all_on_disk(checkpoint_dir, tmp_path):
    commands = (
        "t2v --prompt rain --distilled --vae-tile 64",
        "refine --video VIDEO --spatial-only",
        "long --prompt rain --num-segments 2 --num-cond-frames 5 --posterior mode",
    )
    runs = started(checkpoint_dir, tmp_path, *commands)["runs"]
    for (command, made), steps in zip(runs.items(), (1, 1, 2), strict=True):
        assert made["ahead"]["sample_step"] == steps, command
        assert not made["run"].keys() & set(LARGE), (command, made["run"])


def test_without_a_cache_there_is_nothing_to_compile_for(checkpoint_dir, capsys):
    args = ["t2v", "--checkpoint", str(checkpoint_dir), "--prompt", "a", "--out", "a.mp4", "--compile-cache", ""]
    with pytest.raises(SystemExit, match="2"):
        cli.main([*args, "--compile-only"])
    assert "--compile-only needs a place for what it compiles: give --compile-cache a folder" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_told(tmp_path, caplog):
    (tmp_path / "file").touch()
    before = jax.config.jax_compilation_cache_dir
    assert not run.keep_compiled(str(tmp_path / "file" / "cache"))
    assert "cannot be written" in caplog.text
    assert jax.config.jax_compilation_cache_dir == before
