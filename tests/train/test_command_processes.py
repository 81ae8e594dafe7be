"""train.py as several real processes: each reads its own rows, one writes, and the run is that of one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import caches
import devices
from lcv_jax.train.config import read_recipe
from training import RECIPE, lines, trained

pytestmark = pytest.mark.slow


def start(data, out, count, mesh, *more):
    """That many processes of one run."""
    env = devices.environment() | {"LCV_TEST_DATA": data}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    common = [sys.executable, "train.py", str(RECIPE), "--out", str(out), "--mesh", mesh, *map(str, more)]
    own = [["--coordinator", coordinator, "--num-processes", str(count), "--process-id", str(i)] for i in range(count)]
    return [subprocess.Popen(common + (mine if count > 1 else []), cwd=devices.ROOT, env=env) for mine in own]


def run(*args):
    finish(start(*args))


def finish(started):
    """Waits until all have ended well; none outlives this."""
    try:
        assert [process.wait(timeout=300) for process in started] == [0] * len(started)
    finally:
        for process in started:
            process.kill()


def test_two_processes_train_as_one(tmp_path):
    """With a context axis across processes, which then hold the same rows, as well."""
    data = caches.dataset(tmp_path / "data", [(2, 4, 4)] * 7)
    config, _ = read_recipe(RECIPE)
    run(data, tmp_path / "one", 1, "data=1")
    whole = trained(config, tmp_path / "one", 8)
    for mesh in ("data=2", "context=2"):
        run(data, tmp_path / mesh, 2, mesh)
        assert [record["step"] for record in lines(tmp_path / mesh)] == list(range(1, 9))
        for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / mesh), strict=True):
            assert abs(one["loss"] - two["loss"]) < 1e-4
        for one, two in zip(whole, trained(config, tmp_path / mesh, 8), strict=True):
            np.testing.assert_allclose(one, two, atol=2e-5)
    assert json.loads((tmp_path / "data=2/config.json").read_text())["mesh"] == "data=2"
    assert "checkpoints" in os.listdir(tmp_path / "data=2")


def test_sigterm_to_one_saves_and_ends_all(tmp_path):
    """And the same command goes on."""
    data, out = caches.dataset(tmp_path / "data", [(2, 4, 4)] * 7), tmp_path / "run"
    started = start(data, out, 2, "data=2", "--steps", 5000, "--save-every", 5000)
    while started[1].poll() is None and (not (out / "metrics.jsonl").exists() or not lines(out)):
        time.sleep(0.05)
    started[1].send_signal(signal.SIGTERM)
    finish(started)
    (step,) = map(int, os.listdir(out / "checkpoints"))
    assert 0 < step < 5000
    run(data, out, 2, "data=2", "--steps", step + 2)
    assert [record["step"] for record in lines(out)] == list(range(1, step + 3))
