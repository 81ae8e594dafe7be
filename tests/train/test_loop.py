"""The loop as a user meets it: it learns, stops when told to, goes on as if nothing had been, and refuses NaN."""

import concurrent.futures
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import devices
import training
from dit_goldens import read_config, read_params
from lcv_jax.errors import InputError
from lcv_jax.objectives.objective import Average, Trees
from lcv_jax.objectives.pretrain import Pretrain, Pretraining
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.loop import End, Schedule, run
from lcv_jax.train.metrics import MetricsFile
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import create
from lcv_jax.train.step import jitted, make_step

PROGRAM = pathlib.Path(__file__).with_name("program.py")
ADAM = AdamW(rate=1e-2, warmup=0).make()


def start(*args):
    command = [sys.executable, str(PROGRAM), *map(str, args)]
    return subprocess.Popen(command, env=devices.environment(), cwd=devices.ROOT, stdout=subprocess.PIPE, text=True)


def lines(path):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in record.items() if name != "seconds"} for record in records]


def test_sigterm_saves_and_the_next_run_goes_on_to_the_last_bit(tmp_path):
    """Stopped, disturbed, continued, against a run that nobody touched."""
    stopped, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    with start(12, stopped, "--pace", 0.1) as process:
        for _ in range(6):
            assert process.stdout.readline() == "batch\n"
        process.send_signal(signal.SIGTERM)
        *_, last = process.stdout.read().splitlines()
    assert process.returncode == 0
    end = json.loads(last)
    assert end["end"] == "preempted"
    assert 5 <= end["step"] < 12
    assert str(end["step"]) in os.listdir(stopped / "checkpoints")
    with start(12, stopped, undisturbed) as process:
        done = [json.loads(line) for line in process.stdout if line != "batch\n"]
    assert [one["end"] for one in done] == ["finished"] * 2
    assert done[0]["digest"] == done[1]["digest"]
    assert lines(stopped / "metrics.jsonl") == lines(undisturbed / "metrics.jsonl")
    assert [record["step"] for record in lines(stopped / "metrics.jsonl")] == list(range(1, 13))


def test_the_loss_falls_on_random_latents(tmp_path, checkpoint_dir):
    """What is learnt of random latents is the velocity's mean given x_t, and then the latents themselves."""
    config = read_config(checkpoint_dir)
    state = create(read_params(checkpoint_dir, config), ADAM, jax.random.key(0))
    step = jitted(make_step(Pretrain(training.dit(config), Pretraining(text_dropout=0)), ADAM))

    class Same(training.RandomBatches):
        def __next__(self):
            return training.batch(0, 4, frames=2, config=config)

    with Checkpoints(tmp_path) as checkpoints:
        metrics = MetricsFile(tmp_path, 0)
        run(step, state, Trees(), Same(), checkpoints, metrics, Schedule(40, save_every=40, log_every=10))
    errors = [record["error"] for record in lines(metrics.path)]
    assert errors[-1] < 0.8 * errors[0]


class Numbers(training.RandomBatches):
    """One number a batch; the third is not one."""

    def __next__(self):
        self.at += 1
        return {"x": np.full((2, 1), np.nan if self.at == 3 else self.at, np.float32)}


def fit(trees, batch, keys):
    error = jnp.square(trees.params["w"] - batch["x"])
    return error.mean(), {"loss": Average.of(error)}


def numbers(tmp_path, schedule):
    with Checkpoints(tmp_path) as checkpoints:
        metrics = MetricsFile(tmp_path, 0)
        state = create({"w": jnp.zeros(1)}, ADAM, jax.random.key(0))
        try:
            return run(jitted(make_step(fit, ADAM)), state, Trees(), Numbers(), checkpoints, metrics, schedule)
        finally:
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.smoke
def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(tmp_path):
    with pytest.raises(InputError, match=r"step 3: the loss or its gradient is not finite \(loss None, grad_norm None"):
        numbers(tmp_path, Schedule(steps=3, save_every=1, log_every=1))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest == 2
    assert [record["step"] for record in lines(tmp_path / "metrics.jsonl")] == [1, 2]


def test_only_the_main_thread_can_catch_sigterm(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        asked = threads.submit(numbers, tmp_path, Schedule(steps=1, save_every=1, log_every=1))
        with pytest.raises(InputError, match="outside the main thread"):
            asked.result()


@pytest.mark.parametrize("log_every", [2, 10])
def test_lines_are_means_and_the_last_step_is_written_and_saved(tmp_path, log_every):
    state, end = numbers(tmp_path, Schedule(steps=2, save_every=10, log_every=log_every))
    assert end is End.FINISHED
    assert int(state.step) == 2
    (record,) = lines(tmp_path / "metrics.jsonl")
    # Adam's first step of 0.01 has been taken when the second number is seen.
    assert record["loss"] == pytest.approx((1 + 1.99**2) / 2, rel=1e-5)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.newest == 2


@pytest.mark.parametrize("name", ["steps", "save_every", "log_every"])
def test_bad_schedules_raise(name):
    with pytest.raises(InputError, match=f"{name}=0: expected at least 1"):
        Schedule(**{"steps": 1, name: 0})
