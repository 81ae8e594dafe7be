"""Checkpoints to be damaged: copies of the golden one, rewritten with the reference library."""

import shutil

import numpy as np
import pytest
import safetensors.numpy

from lcv_jax.checkpoint import layout
from lcv_jax.models import zoo


@pytest.fixture(scope="session")
def abstract(checkpoint_dir):
    """The abstract parameters of each model of the golden checkpoint, by component."""
    return {
        name: zoo.abstract_params(layout.read_config(component, checkpoint_dir / name))
        for name, component in layout.COMPONENTS.items()
    }


@pytest.fixture
def copy(checkpoint_dir, tmp_path):
    """copy("dit") -> the path of a copy of that component which may be changed."""

    def make(name):
        return shutil.copytree(checkpoint_dir / name, tmp_path / "copy" / name)

    return make


@pytest.fixture
def rewrite():
    """rewrite(file, change): applies change(tensors) to a safetensors file and writes it back."""

    def run(path, change):
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path)

    return run
