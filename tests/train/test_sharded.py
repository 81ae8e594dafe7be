"""The step on meshes of 8 devices, in a process that has them."""

import pathlib

import pytest

import devices

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).with_name("sharded.py")
DISTILLATION = pathlib.Path(__file__).with_name("sharded_distillation.py")
MUON = pathlib.Path(__file__).with_name("sharded_muon.py")
MESHES = ("data=2,fsdp=4", "fsdp=2,context=2,tensor=2")


@pytest.fixture(scope="module")
def results():
    return devices.report(PROGRAM)


@pytest.mark.parametrize("mesh", MESHES)
def test_steps_are_those_of_one_device(results, mesh):
    """Micro-batches on the second mesh, and a checkpoint written while the first goes on."""
    assert results["moved"] > 1e-3
    assert results[mesh]["difference"] < 1e-5
    assert results[mesh]["loss"] < 1e-5


@pytest.mark.parametrize("mesh", MESHES)
def test_the_state_stays_cut_in_its_place(results, mesh):
    """Between an eighth and what vectors and small kernels, which are whole everywhere, add to it."""
    assert results[mesh]["stays"]
    assert results[mesh]["share"] < 0.5


@pytest.mark.parametrize("mesh", ["one", *MESHES])
def test_a_checkpoint_goes_on_on_another_mesh(results, mesh):
    restored = results[f"restored on {mesh}"]
    assert restored["stays"]
    assert restored["difference"] < 1e-5


@pytest.fixture(scope="module")
def muon():
    return devices.report(MUON)


@pytest.mark.parametrize("model", ["dit", "text_encoder", "vae"])
def test_muons_steps_are_those_of_one_device(muon, model):
    """Its matrices are cut; its moments stay so."""
    assert muon[model]["difference"] < 1e-4
    assert muon[model]["share"] < 0.5


def test_axes_that_would_repeat_work_are_refused(muon):
    """In runs that cut batches only."""
    assert muon["refused"] == ("mesh 'data=2,context=4': context=4 would repeat work: expected data, fsdp alone")


@pytest.fixture(scope="module")
def distillation():
    return devices.report(DISTILLATION)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["guidance", "consistency"])
def test_distillations_are_those_of_one_device(distillation, name, mesh):
    """Teachers, their negative prompt and the running mean on the mesh; micro-batches on the second."""
    found = distillation[f"{name} {mesh}"]
    assert found["moved"] > 1e-3
    assert found["difference"] < 1e-5
    assert found["loss"] < 1e-5
