"""train.py as several real processes: each reads its own rows, one writes, and the run is that of one process."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

import caches
import training
from lcv_jax.train.config import read_recipe
from training import RECIPE, lines, trained

pytestmark = pytest.mark.slow


def run(data, out, count, mesh):
    env = training.environment() | {"LCV_TEST_DATA": data, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    common = [sys.executable, "train.py", str(RECIPE), "--out", str(out), "--mesh", mesh]
    own = [["--coordinator", coordinator, "--num-processes", str(count), "--process-id", str(i)] for i in range(count)]
    started = [subprocess.Popen(common + (mine if count > 1 else []), cwd=training.ROOT, env=env) for mine in own]
    try:
        assert [process.wait(timeout=300) for process in started] == [0] * count
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
