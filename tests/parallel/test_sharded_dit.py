"""The DiT on meshes of 8 virtual devices equals one device, outputs and gradients, within float32 rounding."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("sharded_dit.py")
MESHES = ("context=8 ring", "fsdp=2,context=2,tensor=2")
MORE_MESHES = (
    "fsdp=8",
    "fsdp=8 sampling",
    "context=8 ulysses",
    "data=2,tensor=4",
    "fsdp=2,context=2,tensor=2 sampling",
)
ROOT = pathlib.Path(__file__).parents[2]


def check(names):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *names],
        env={
            **os.environ,
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert len(report) == 2 * len(names)
    for name, (outs, grads) in report.items():
        assert outs < 1e-5, name
        assert grads < 1e-5, name


def test_outputs_and_gradients_with_conditions_and_caches():
    check(MESHES)


@pytest.mark.slow
def test_on_every_other_mesh():
    check(MORE_MESHES)
