"""The DiT on meshes of 8 virtual devices equals one device, outputs and gradients, within float32 rounding."""

import pathlib

import pytest

import devices

PROGRAM = pathlib.Path(__file__).with_name("sharded_dit.py")
MESHES = ("context=8 ring", "fsdp=2,context=2,tensor=2")
MORE_MESHES = (
    "fsdp=8",
    "fsdp=8 sampling",
    "context=8 ulysses",
    "data=2,tensor=4",
    "fsdp=2,context=2,tensor=2 sampling",
)


def check(names):
    report = devices.report(PROGRAM, *names)
    assert len(report) == 2 * len(names)
    for name, (outs, grads) in report.items():
        assert outs < 1e-5, name
        assert grads < 1e-5, name


def test_outputs_and_gradients_with_conditions_and_caches():
    check(MESHES)


@pytest.mark.slow
def test_on_every_other_mesh():
    check(MORE_MESHES)
