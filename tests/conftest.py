"""Shared fixtures: where the golden numbers lie and how they are read."""

import os
import pathlib

import jax
import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / "goldens"
CHECKPOINT = GOLDENS / "checkpoint"


def pytest_configure():
    # Most of the suite's time is XLA compiling small programs, and less of it changes no result beyond rounding. What
    # is compiled for a device is tested as it is used.
    if os.environ.get("JAX_PLATFORMS", "cpu") == "cpu":
        jax.config.update("jax_disable_most_optimizations", True)
    # The warpgroups of an interpreted GPU kernel wait for one another inside callbacks. With a thread per core, XLA's
    # default, two cores are not enough: all threads may be waiting for a warpgroup that gets none.
    os.environ.setdefault("PJRT_NPROC", "16")
    # The CPU's older fusion code compiles in less than half the time; later versions abort on the flag.
    if jax.__version_info__ < (0, 11):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()


@pytest.fixture(scope="session")
def goldens():
    """Reads one golden file: goldens("dit_t2v") -> {name: array}."""

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return read


@pytest.fixture(scope="session")
def checkpoint_dir() -> pathlib.Path:
    """The small golden checkpoint in the published layout."""
    return CHECKPOINT
