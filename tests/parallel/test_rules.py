"""How everything is cut on every mesh, as one table that a change shows up in; and strictness.

UPDATE_GOLDEN=1 writes the table anew.
"""

import os
import pathlib
import re

import jax
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from lcv_jax.checkpoint.load import flatten
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.axes import lora_axes, parameter_axes
from lcv_jax.models.precision import BFLOAT16
from lcv_jax.models.zoo import abstract_params
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.rules import SAMPLING, TRAINING, Rules, spec

TABLE = pathlib.Path(__file__).with_name("partition_specs.txt")
MESHES = ("fsdp=8", "context=8", "data=2,tensor=4", "fsdp=2,context=2,tensor=2", "fsdp=16,context=4,tensor=4", "fsdp=5")
# Latents and tokens of 480 x 832 x 93 with guidance, keys of a cache, hidden channels, frames of one step of the VAE.
ACTIVATIONS = {
    "latents": (("batch", None, None, None, None), (2, 24, 60, 104, 16)),
    "tokens": (("batch", None, "tokens", None), (2, 24, 1600, 4096)),
    "cache": (("batch", None, "tokens", "heads", None), (1, 4, 1600, 32, 128)),
    "training tokens": (("batch", None, "tokens", None), (64, 24, 1600, 4096)),
}


def mesh_named(text):
    sizes = MeshConfig.parse(text).sizes
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def shown(cut):
    """A partition spec in one spelling on every JAX: the mesh axes of each axis, - for none."""
    return "(" + ", ".join("-" if e is None else e if isinstance(e, str) else "+".join(e) for e in cut) + ")"


def table():
    lines = []
    architecture = zoo.ARCHITECTURES["longcat-13b"]
    for mesh in MESHES:
        on = mesh_named(mesh)
        lines.append(f"== {mesh}")
        for name in ("dit", "text_encoder", "vae"):
            config = getattr(architecture, name)
            abstract = zoo.abstract_params(config)
            leaves = flatten(abstract)
            axes = flatten(parameter_axes(config, abstract))
            found = {}
            for path, leaf in leaves.items():
                if not any(axes[path]):
                    continue  # whole on every mesh
                cuts = {}
                for kind, rules in (("", SAMPLING), ("training ", TRAINING)):
                    cut, whole = spec(axes[path], leaf.shape, on, rules, path)
                    cuts[kind] = shown(cut) + " whole" * bool(whole)
                short = f"{name} {re.sub(r'_[0-9]+', '_N', path)}"
                for kind, cut in cuts.items():
                    if not kind or cut != cuts[""]:  # of training, what is cut otherwise than in sampling
                        found.setdefault(kind + short, set()).add(cut)
            lines += [f"{path}: {' | '.join(sorted(cuts))}" for path, cuts in found.items()]
        for rules, kind in ((SAMPLING, "sampling"), (TRAINING, "training")):
            for name, (axes, shape) in ACTIVATIONS.items():
                lines.append(f"{kind} {name}: {shown(spec(axes, shape, on, rules, name)[0])}")
    return "\n".join(lines) + "\n"


@pytest.mark.smoke
def test_the_table_of_partition_specs():
    found = table()
    if os.environ.get("UPDATE_GOLDEN"):
        TABLE.write_text(found)
    assert found == TABLE.read_text()


def test_unknown_names_wrong_ranks_and_collisions_raise():
    mesh = mesh_named("fsdp=2,tensor=2")
    with pytest.raises(InputError, match="blocks/x: logical axis 'embd' is not known, expected one of batch, tokens"):
        spec(("embd", None), (4, 4), mesh, SAMPLING, "blocks/x")
    with pytest.raises(InputError, match=r"q: 1 logical axes \('embed',\) for shape \(4, 4\): expected one each"):
        spec(("embed",), (4, 4), mesh, SAMPLING, "q")
    with pytest.raises(InputError, match="w: mesh axis 'tensor' would cut both 'heads' and 'mlp'"):
        spec(("heads", "mlp"), (4, 4), mesh, SAMPLING, "w")
    with pytest.raises(InputError, match="w: the rule for 'batch' names mesh axis 'replica', the mesh has"):
        spec(("batch",), (4,), mesh, Rules(batch=("replica",), tokens=()), "w")


def test_what_does_not_divide_is_cut_by_as_many_as_divide_it():
    mesh = mesh_named("fsdp=4,context=2")
    assert spec(("tokens",), (16,), mesh, SAMPLING, "") == (P(("fsdp", "context")), ())
    assert spec(("tokens",), (12,), mesh, SAMPLING, "") == (P("fsdp"), ("tokens",))
    assert spec((None, "tokens"), (8, 3), mesh, SAMPLING, "") == (P(), ("tokens",))


def test_adapters_are_cut_as_their_kernels_are():
    assert lora_axes((None, "embed", None, "heads"), stacked=True) == {
        "down": (None, "embed", None),
        "up": (None, None, None, "heads"),
        "scale": (None,),
    }
    assert lora_axes(("embed", None), stacked=False) == {
        "down": ("embed", None),
        "up": (None, None, None),
        "scale": (),
    }


def test_a_parameter_without_a_rule_raises():
    config = zoo.ARCHITECTURES["longcat-13b"].dit
    abstract = abstract_params(config, BFLOAT16)
    with pytest.raises(KeyError, match=r"blocks/gate/kernel.*no rule"):
        parameter_axes(config, {"blocks": {"gate": {"kernel": jax.ShapeDtypeStruct((2, 2), "float32")}}})
    wrong = {"blocks": {"ffn": {"w1": {"kernel": jax.ShapeDtypeStruct((4096, 11008), "float32")}}}}
    with pytest.raises(ValueError, match="its logical axes are"):
        parameter_axes(config, wrong)
    assert flatten(parameter_axes(config, abstract)).keys() == flatten(abstract).keys()
