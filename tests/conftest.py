"""Shared fixtures: where the golden numbers lie and how they are read."""

import pathlib

import jax
import numpy as np
import pytest

GOLDENS = pathlib.Path(__file__).parent / "goldens"
CHECKPOINT = GOLDENS / "checkpoint"


def pytest_configure():
    # Most of the suite's time is XLA compiling small programs, and less of it changes no result beyond rounding.
    jax.config.update("jax_disable_most_optimizations", True)


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
