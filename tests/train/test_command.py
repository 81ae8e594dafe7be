"""train.py from data to an exported model, stopped and continued, and what it refuses."""

import dataclasses
import importlib.util
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

import caches
import devices
import training
from lcv_jax.checkpoint import __main__ as checkpoints
from lcv_jax.checkpoint import layout
from lcv_jax.checkpoint.load import flatten, load_params
from lcv_jax.checkpoint.lora import load_lora
from lcv_jax.data.batching import Tasks
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.objectives.pretrain import Pretraining
from lcv_jax.train import build, command
from lcv_jax.train.build import DiTTraining
from lcv_jax.train.config import SampleConfig, read_recipe
from lcv_jax.train.loop import End
from lcv_jax.train.weights import read_model, read_trained
from training import CHANGES, RECIPE, lines, trained


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    with training.programs_kept(tmp_path_factory.mktemp("programs")):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return caches.dataset(tmp_path_factory.mktemp("data"), [(2, 4, 4)] * 7)


@pytest.fixture(scope="module")
def config(data):
    base, _ = read_recipe(RECIPE)
    return dataclasses.replace(base, data=dataclasses.replace(base.data, paths=(data,)))


@pytest.fixture(scope="module")
def undisturbed(config, tmp_path_factory) -> pathlib.Path:
    run = tmp_path_factory.mktemp("undisturbed")
    assert command.train(config, str(run)) == (8, End.FINISHED)
    return run


def test_a_run_leaves_what_it_should(undisturbed, config):
    assert sorted(os.listdir(undisturbed / "checkpoints")) == ["3", "6", "8"]
    records = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, 9))
    assert {"loss", "error", "error by level", "grad_norm", "damaged", *CHANGES} <= set(records[0])
    assert all(record["tokens_per_second"] > 0 and record["tflops"] >= 0 for record in records)
    assert json.loads((undisturbed / "config.json").read_text()) == config.to_json()
    (events,) = (undisturbed / "tensorboard").iterdir()
    assert b"error_by_level/0.10" in events.read_bytes()


def test_sigterm_then_again_is_as_if_nothing_had_been(config, undisturbed, tmp_path):
    """By the numbers of every step, to the last bit."""

    def stop():
        while not (tmp_path / "metrics.jsonl").exists() or len(lines(tmp_path)) < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    slow = dataclasses.replace(config, steps=2000)
    stopper = threading.Thread(target=stop, daemon=True)
    stopper.start()
    step, end = command.train(slow, str(tmp_path))
    stopper.join()
    assert end == End.PREEMPTED
    last = max(8, step + 2)
    assert command.train(dataclasses.replace(config, steps=last), str(tmp_path)) == (last, End.FINISHED)
    assert lines(tmp_path)[:8] == lines(undisturbed)
    assert [record["step"] for record in lines(tmp_path)] == list(range(1, last + 1))


def test_a_finished_run_is_left_alone(config, undisturbed):
    before = (undisturbed / "metrics.jsonl").read_bytes()
    assert command.train(config, str(undisturbed)) == (8, End.FINISHED)
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_and_changes_nothing(config, undisturbed):
    kept = (undisturbed / "config.json").read_bytes()
    with pytest.raises(InputError, match="begun with another config: objective/bins was 10, is 5; choose another"):
        command.train(dataclasses.replace(config, objective=Pretraining(bins=5)), str(undisturbed))
    assert (undisturbed / "config.json").read_bytes() == kept


def test_a_run_begins_with_anothers_weights(config, undisturbed):
    """With its mean, as a stage behind another one does."""
    started = DiTTraining.of(dataclasses.replace(config, init=str(undisturbed / "checkpoints/8"))).start()
    mean, last = trained(config, undisturbed, 8, "ema"), trained(config, undisturbed, 8, "trained")
    for leaf, ema in zip(jax.tree.leaves(started.trained), mean, strict=True):
        np.testing.assert_array_equal(leaf, ema)
        assert leaf.dtype == np.float32
    assert any(not np.array_equal(ema, params) for ema, params in zip(mean, last, strict=True))
    assert int(started.step) == 0


def test_a_run_becomes_a_checkpoint(config, undisturbed, checkpoint_dir, tmp_path, capsys):
    """In the published layout, with the other models of the base, to the last bit."""
    src, dst = str(undisturbed / "checkpoints/8"), tmp_path / "exported"
    assert checkpoints.main(["export", src, str(dst)]) == 2
    assert "names no checkpoint with the other models: give one with --base" in capsys.readouterr().err
    args = ["--base", str(checkpoint_dir), "--dtype", "float32", "--weights", "trained", "--max-shard-size", "100KB"]
    assert checkpoints.main(["export", src, str(dst), *args]) == 0
    assert sorted(os.listdir(dst)) == ["dit", "scheduler", "text_encoder", "tokenizer", "vae"]
    model = layout.open_model(layout.COMPONENTS["dit"], dst / "dit")
    assert model.config == config.model
    loaded = jax.tree.leaves(load_params(model.source, model.component.table, model.abstract, dtype=np.float32))
    for ours, theirs in zip(trained(config, undisturbed, 8, "trained"), loaded, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert checkpoints.main(["export", src, str(dst), *args]) == 2
    assert "exists already" in capsys.readouterr().err
    assert checkpoints.main(["export", str(checkpoint_dir), str(tmp_path / "x"), "--weights", "ema"]) == 2
    assert "is no RUN/checkpoints/STEP" in capsys.readouterr().err


def test_a_lora_is_trained_and_exported(config, undisturbed, tmp_path):
    """The model stays as it is; the file holds what was trained."""
    lora = LoRAConfig(rank=2, alpha=1.0)
    own = dataclasses.replace(config, lora=lora, init=str(undisturbed / "checkpoints/8"), steps=2, ema_decay=None)
    command.train(own, str(tmp_path / "run"))
    step = tmp_path / "run/checkpoints/2"
    assert checkpoints.main(["export", str(step), str(tmp_path / "mine.safetensors"), "--dtype", "float32"]) == 0
    file = flatten(load_lora(tmp_path / "mine.safetensors", zoo.abstract_params(config.model, FLOAT32)))
    shapes = jax.eval_shape(lambda: build._untrained(own, jax.random.key(0)))
    state = flatten(read_trained(step, shapes)[build.ADAPTER])
    assert set(file) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(file[name], value)
    assert np.abs(state["blocks/attn/qkv/up"]).max() > 0
    np.testing.assert_array_equal(state["blocks/attn/qkv/scale"], 0.5)
    assert checkpoints.main(["export", str(step), str(tmp_path / "folder")]) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"lora": LoRAConfig()}, "lora without init: adapters need the model they adapt; give --init"),
        ({"samples": SampleConfig(every=3)}, "samples.every is set: expected a checkpoint with the encoders"),
        ({"accumulate": 3}, "it must divide by 3; set data.batches.multiple"),
        ({"model": dataclasses.replace(training.TINY, in_channels=8)}, "latents of channels 16, the model takes 8"),
        (
            {"model": dataclasses.replace(training.TINY, caption_channels=4)},
            "text states of width 8, the model takes 4",
        ),
        ({"mesh": "data=2"}, "needs 2 devices, there are 1"),
    ],
)
def test_what_does_not_fit_is_refused(config, tmp_path, change, match):
    with pytest.raises(InputError, match=match):
        command.train(dataclasses.replace(config, **change), str(tmp_path / "run"))


def test_data_that_do_not_fit_are_refused(config, checkpoint_dir, tmp_path):
    def with_data(**change):
        return dataclasses.replace(config, data=dataclasses.replace(config.data, **change))

    with pytest.raises(InputError, match=r"was encoded with another vae .a. than .* has"):
        DiTTraining.of(dataclasses.replace(config, checkpoint=str(checkpoint_dir)))
    with pytest.raises(InputError, match="2 weights for 1 paths: expected one each"):
        DiTTraining.of(with_data(weights=(1.0, 2.0)))
    with pytest.raises(InputError, match=r"mixture weights .0.0,.: expected numbers from 0"):
        DiTTraining.of(with_data(weights=(0.0,)))
    with pytest.raises(InputError, match=r"index.json: no such file"):
        DiTTraining.of(with_data(paths=(str(tmp_path),)))
    vc = dataclasses.replace(config.data.batches, tasks=Tasks(vc=1))
    with pytest.raises(InputError, match=r"vc_latents=\(4,\): all are as long as videos of 2 latent frames"):
        DiTTraining.of(with_data(batches=vc))


def test_weights_of_another_model_are_refused(config, undisturbed, checkpoint_dir):
    step = undisturbed / "checkpoints/8"
    other = zoo.abstract_params(dataclasses.replace(config.model, hidden_size=64), FLOAT32)
    with pytest.raises(InputError, match=r"has shape .*, expected .*: it is of another model"):
        read_trained(step, other)
    with pytest.raises(InputError, match="has no 'moments', expected one of ema, trained"):
        read_trained(step, other, "moments")
    with pytest.raises(InputError, match="its architecture is not the recipe's"):
        read_model(str(checkpoint_dir), config.model, other)
    with pytest.raises(InputError, match="no such folder: expected a checkpoint of a run"):
        read_trained(undisturbed, other)


def program(data: str, *args, count: int = 1) -> subprocess.Popen:
    """count: of virtual devices."""
    env = devices.environment(count) | {"LCV_TEST_DATA": data}
    command = [sys.executable, "train.py", str(RECIPE), *map(str, args)]
    return subprocess.Popen(
        command, cwd=devices.ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command_tells_the_plan(data):
    done = program(data, "--out", "x", "--dry-run")
    out, err = done.communicate()
    assert done.returncode == 0, err
    assert "parameters trained; mesh data=1, fsdp=1, context=1, tensor=1; 8 steps" in out
    assert "2 x 2x4x4 t2v: 16 tokens" in out


@pytest.mark.slow
@pytest.mark.parametrize(("count", "mesh"), [(1, "data=1"), (8, "data=2,fsdp=2,tensor=2")])
def test_killed_at_random_moments_is_as_if_nothing_had_been(config, data, tmp_path, count, mesh):
    """SIGKILL, also while a checkpoint is being written: every step saves one. Parameters, moments, mean, counters, key
    and the data's position end the same to the last bit."""
    options = ["--steps", 40, "--save-every", 1, "--mesh", mesh, "--data.batches.multiple", 4]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert program(data, "--out", whole, *options, count=count).wait() == 0
    moments, killed = random.Random(count), 0
    while killed < 5:
        run = program(data, "--out", parts, *options, count=count)
        before = len(lines(parts)) if (parts / "metrics.jsonl").exists() else 0
        while run.poll() is None and (not (parts / "metrics.jsonl").exists() or len(lines(parts)) <= before):
            time.sleep(0.01)
        time.sleep(moments.random() * 0.3)
        if run.poll() is not None:
            break
        run.kill()
        run.wait()
        killed += 1
    assert program(data, "--out", parts, *options, count=count).wait() == 0
    assert killed == 5
    assert lines(parts) == lines(whole)
    one, two = (training.whole(config, run, 40) for run in (whole, parts))
    training.same(one, two)
    assert sum("mu" in name for name in one[0]) > 10
    assert sum(one[1]["batches"].values()) == 40


@pytest.fixture
def disk(tmp_path) -> pathlib.Path:
    """A file system of its own, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or resize(place, 1 << 26, "defaults"):
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def resize(disk: pathlib.Path, size: int, how: str = "remount") -> int:
    """Mounts it, or changes its size in bytes; the exit status."""
    options = f"{how},size={size}"
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True).returncode


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_it_goes_on_when_there_is_room(config, data, tmp_path, disk):
    """A disk for two and a half checkpoints: one line that says so, the checkpoints before the failed one whole; with
    room the run ends as if nothing had been."""
    options = ["--steps", 8, "--save-every", 1, "--log-every", 1]
    whole, parts = tmp_path / "whole", disk / "run"
    assert program(data, "--out", whole, *options).wait(300) == 0
    one = sum(path.stat().st_size for path in (whole / "checkpoints/8").rglob("*") if path.is_file())
    assert resize(disk, one * 5 // 2) == 0
    run = program(data, "--out", parts, *options)
    _, told = run.communicate(timeout=300)
    assert run.returncode == 2, told
    (line,) = (line for line in told.splitlines() if line.startswith("error: "))
    assert "cannot be written" in line
    assert "make room, or choose another place" in line
    steps = [int(path.name) for path in (parts / "checkpoints").iterdir() if path.name.isdigit()]
    assert 1 <= max(steps) < 8
    training.whole(config, parts, max(steps))
    assert resize(disk, 1 << 26) == 0
    assert program(data, "--out", parts, *options).wait(300) == 0
    assert lines(parts) == lines(whole)
    training.same(training.whole(config, parts, 8), training.whole(config, whole, 8))


def test_wandb_is_asked_for_in_vain(config, tmp_path):
    if importlib.util.find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    with pytest.raises(InputError, match="--wandb: the package wandb is not installed: pip install wandb"):
        command.train(config, str(tmp_path / "run"), wandb="project")
    assert not (tmp_path / "run").exists()


def test_damaged_records_stand_in_the_metrics(config, tmp_path):
    """Counted after the step that met them, however long the lines are."""
    place = caches.dataset(tmp_path / "data", [(2, 4, 4)] * 4, per_shard=1)
    shard = tmp_path / "data" / "00002.arrayrecord"
    shard.write_bytes(shard.read_bytes().replace(b"clip-2", b"clip-9"))
    own = dataclasses.replace(config, data=dataclasses.replace(config.data, paths=(place,)), log_every=2, save_every=5)
    command.train(own, str(tmp_path / "run"))
    assert [line["damaged"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("kind", "flops"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v6 lite", 918e12),
        ("cpu", None),
    ],
)
def test_peaks_are_known_by_the_devices_names(kind, flops):
    assert command.peak(kind) == flops
