"""Meshes from text and numbers, and what is refused."""

import jax
import pytest
from jax.sharding import AxisType, Mesh

from lcv_jax.errors import InputError
from lcv_jax.parallel.mesh import AXES, MeshConfig, mesh_of


def test_text_in_any_order():
    assert MeshConfig.parse("context=2, fsdp=4") == MeshConfig(fsdp=4, context=2)
    assert str(MeshConfig.parse("tensor=2,data=3")) == "data=3,tensor=2"
    assert MeshConfig.parse("context=-1,tensor=2").filled(8) == MeshConfig(context=4, tensor=2)
    assert MeshConfig(fsdp=4).filled(8).devices == 4  # the first devices


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fdsp=4", "axis 'fdsp' is not known, expected some of data, fsdp, context, tensor"),
        ("fsdp=4,fsdp=2", "axis 'fsdp' is given twice"),
        ("fsdp", "expected fsdp=N, a whole number, not fsdp"),
        ("fsdp=2.5", "expected fsdp=N, a whole number, not fsdp=2.5"),
        ("", "axis '' is not known"),
        ("tensor=0", "mesh axis tensor=0: expected a whole number of at least 1, or -1 for the rest"),
        ("data=-1,fsdp=-1", "only one axis can be -1"),
    ],
)
def test_bad_text_names_the_axis(text, message):
    with pytest.raises(InputError, match=message):
        MeshConfig.parse(text)


def test_meshes_that_do_not_suit_the_devices():
    with pytest.raises(InputError, match="mesh fsdp=16 needs 16 devices, there are 8: make an axis smaller"):
        MeshConfig(fsdp=16).filled(8)
    with pytest.raises(InputError, match="8 devices do not divide by the other axes' 3"):
        MeshConfig(data=-1, tensor=3).filled(8)


class Device:
    def __init__(self, process):
        self.process_index, self.platform = process, "cpu"


def test_no_process_is_left_without_a_device():
    with pytest.raises(InputError, match="takes 2 of 4 devices and leaves none to process 1"):
        MeshConfig(data=2).make([Device(0), Device(0), Device(1), Device(1)])


def test_whatever_is_given_for_a_mesh():
    assert mesh_of(None) is None
    made = mesh_of(MeshConfig())
    assert made.axis_names == AXES
    assert mesh_of(made) == made
    assert mesh_of("data=1") == made
    with pytest.raises(InputError, match="mesh with axes"):
        mesh_of(Mesh(jax.devices()[:1], ("x",)))
    with pytest.raises(InputError, match="mesh=4: expected text such as"):
        mesh_of(4)


def test_explicit_axes_become_automatic():
    """Those of `jax.make_mesh`, under which parameters could not even be loaded."""
    explicit = jax.make_mesh((1,) * len(AXES), AXES, axis_types=(AxisType.Explicit,) * len(AXES))
    assert mesh_of(explicit) == MeshConfig().make()
