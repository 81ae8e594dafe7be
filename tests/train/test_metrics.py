"""Metrics as lines of JSON, and what of them a resumed run keeps."""

import collections
import json
import resource
import time

import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.data.files import replacing
from lcv_jax.errors import InputError
from lcv_jax.objectives.objective import Average
from lcv_jax.train.board import Board
from lcv_jax.train.metrics import MetricsFile, values


def test_means_become_numbers_and_holes_null():
    metrics = {
        "loss": Average(jnp.float32(3), jnp.float32(2)),
        "bins": Average(np.float32([1, 0, np.inf]), np.float32([4, 0, 1])),
        "bad": Average(np.float32(np.nan), np.float32(1)),
    }
    assert values(metrics) == {"bad": None, "bins": [0.25, None, None], "loss": 1.5}


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_that_are_taken_again_are_written_once(tmp_path):
    file = MetricsFile(tmp_path / "run", 0)
    for step in (2, 4, 6):
        file.write(step, {"loss": step / 2})
    with file.path.open("a") as tail:
        tail.write('{"step": 8, "lo')  # killed while writing
    resumed = MetricsFile(tmp_path / "run", 4)
    resumed.write(6, {"loss": 0.0})
    assert read(resumed.path) == [{"step": 2, "loss": 1.0}, {"step": 4, "loss": 2.0}, {"step": 6, "loss": 0.0}]


def test_foreign_and_unwritable_files_raise(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2: expected a JSON object with a step"):
        MetricsFile(tmp_path, 0)
    (tmp_path / "metrics.jsonl").unlink()
    file = MetricsFile(tmp_path, 0)
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        file.write(1, {})


@pytest.fixture
def full():
    """The system lets no file grow beyond 2 KiB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 11, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_is_told(tmp_path, full):
    """At once, wherever it is met."""
    file, board = MetricsFile(tmp_path, 0), Board(tmp_path / "tensorboard", 0)
    with pytest.raises(InputError, match=r"metrics.jsonl: cannot be written \(File too large\)"):
        collections.deque((file.write(step, {"loss": 1.0}) for step in range(200)), maxlen=0)
    with pytest.raises(InputError, match=r"tensorboard: cannot be written \(File too large\)"):
        collections.deque((board.write(step, time.time(), {"loss": 1.0}) for step in range(200)), maxlen=0)
    with pytest.raises(InputError, match="tensorboard: cannot be written"):
        board.close()
    with (
        pytest.raises(InputError, match=r"config.json: cannot be written"),
        replacing(tmp_path / "config.json") as aside,
    ):
        aside.write_bytes(bytes(1 << 12))
    assert not (tmp_path / "config.json").exists()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"):
        Board(tmp_path / "file", 0)
