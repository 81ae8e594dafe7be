"""Official tensors -> params: right values in the right place, strict, and onto any mesh."""

import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import devices
from lcv_jax.checkpoint import layout, store
from lcv_jax.checkpoint.load import flatten, load_params, plan, unflatten
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import DIT, UMT5, Rule, Table
from lcv_jax.checkpoint.tensorfile import TensorInfo
from lcv_jax.errors import InputError

FOLDER = pathlib.Path("checkpoint/dit")


class Memory:
    """A source over a dict of arrays; refuses to be read when `readable` is empty."""

    def __init__(self, arrays, readable=True):
        self.path = FOLDER
        self.arrays, self.readable = arrays, readable
        self.tensors = {name: TensorInfo(a.shape, a.dtype) for name, a in arrays.items()}

    def file(self, name):
        return FOLDER / "model.safetensors"

    def read(self, name, dtype=None):
        assert self.readable, "data was read before the headers were checked"
        with np.errstate(over="ignore"):
            return self.arrays[name].astype(dtype)

    def chunks(self, name):
        yield from np.array_split(self.arrays[name].reshape(-1), 3)


def arrays(checkpoint_dir, name):
    source = SafetensorsSource(checkpoint_dir / name)
    return {key: source.read(key) for key in source.tensors}


@pytest.mark.parametrize("name", list(layout.COMPONENTS))
def test_every_value_at_its_place(checkpoint_dir, abstract, name):
    component = layout.COMPONENTS[name]
    source = SafetensorsSource(checkpoint_dir / name)
    params = load_params(source, component.table, abstract[name], dtype="float32", check_finite=True)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, abstract[name])
    flat = flatten(params)
    for key in source.tensors:
        place = component.table.locate(key)
        ours = np.asarray(flat[place.path] if place.layer is None else flat[place.path][place.layer])
        np.testing.assert_array_equal(place.axes.official(ours), source.read(key).astype(np.float32))


def test_linear_kernels_are_transposed_and_stacked(checkpoint_dir, abstract):
    """By hand for one kernel, so that the table's axes are not only checked against themselves."""
    source = SafetensorsSource(checkpoint_dir / "dit")
    params = load_params(source, DIT, abstract["dit"], dtype="float32")
    qkv = params["blocks"]["attn"]["qkv"]
    assert qkv["kernel"].shape == (3, 128, 3, 128)
    np.testing.assert_array_equal(qkv["kernel"][2, :, 1], source.read("blocks.2.attn.qkv.weight")[128:256].T)
    np.testing.assert_array_equal(qkv["bias"][1, 2], source.read("blocks.1.attn.qkv.bias")[256:])
    patch = source.read("x_embedder.proj.weight")
    np.testing.assert_array_equal(params["x_embedder"]["proj"]["kernel"][5, 0, 1, 0], patch[:, 5, 0, 1, 0])


def test_dtype(checkpoint_dir, abstract):
    source = SafetensorsSource(checkpoint_dir / "text_encoder")
    default = load_params(source, UMT5, abstract["text_encoder"])
    assert {leaf.dtype for leaf in jax.tree.leaves(default)} == {jnp.dtype("bfloat16")}
    half = load_params(source, UMT5, abstract["text_encoder"], dtype="float16")
    name = "encoder.final_layer_norm.weight"
    np.testing.assert_array_equal(half["final_norm"]["scale"], source.read(name).astype(np.float16))
    np.testing.assert_array_equal(default["final_norm"]["scale"], source.read(name).astype(ml_dtypes.bfloat16))


def _missing(tensors):
    del tensors["blocks.1.ffn.w2.weight"]


def _unknown(tensors):
    tensors["blocks.1.ffn.w4.weight"] = np.zeros(3, np.float32)


def _deeper(tensors):
    tensors["blocks.3.ffn.w2.weight"] = tensors["blocks.1.ffn.w2.weight"]


def _leading_zero(tensors):
    tensors["blocks.01.ffn.w2.weight"] = tensors["blocks.1.ffn.w2.weight"]


def _transposed(tensors):
    tensors["blocks.1.ffn.w2.weight"] = tensors["blocks.1.ffn.w2.weight"].T


def _integer(tensors):
    tensors["blocks.1.ffn.w2.weight"] = tensors["blocks.1.ffn.w2.weight"].astype(np.int32)


def _double(tensors):
    tensors["blocks.1.ffn.w2.weight"] = tensors["blocks.1.ffn.w2.weight"].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_missing, r"checkpoint/dit: key 'blocks.1.ffn.w2.weight' is missing, expected shape \[128, 512\]"),
        (_unknown, "key 'blocks.1.ffn.w4.weight' is not a tensor of the DiT model: remove it"),
        (_deeper, "key 'blocks.3.ffn.w2.weight' .layer 3 of blocks/ffn/w2/kernel. is not part of the DiT"),
        (_leading_zero, "key 'blocks.01.ffn.w2.weight' is not a tensor"),
        (
            _transposed,
            r"'blocks.1.ffn.w2.weight' has shape \[512, 128\], expected \[128, 512\] .* use the config",
        ),
        (_integer, "'blocks.1.ffn.w2.weight' has dtype int32, expected one of float32, bfloat16, float16"),
        (_double, "has dtype float64, expected one of float32, bfloat16, float16: convert"),
    ],
)
def test_strict_before_anything_is_read(checkpoint_dir, abstract, change, message):
    tensors = arrays(checkpoint_dir, "dit")
    change(tensors)
    with pytest.raises(InputError, match=message):
        load_params(Memory(tensors, readable=False), DIT, abstract["dit"])


def test_doubly_mapped_key(checkpoint_dir, abstract):
    double = Table("DiT", (*DIT.rules, Rule("blocks.{layer}.ffn.{a}.weight", "blocks/other"), DIT.rules[0]))
    with pytest.raises(InputError, match=r"matches 2 rules of the DiT"):
        double.locate("x_embedder.proj.weight")
    again = Table("DiT", (*DIT.rules, Rule("final_layer.linear.bias", "again/bias")))
    tree = abstract["dit"] | {"again": {"bias": abstract["dit"]["final_layer"]["linear"]["bias"]}}
    with pytest.raises(InputError, match=r"key 'final_layer.linear.bias' matches 2 rules"):
        plan(Memory(arrays(checkpoint_dir, "dit"), readable=False), again, tree)


def test_a_leaf_without_a_rule(checkpoint_dir, abstract):
    tree = abstract["dit"] | {"new": abstract["dit"]["final_layer"]["linear"]["bias"]}
    with pytest.raises(KeyError, match=r"'new' is described by 0 rules"):
        plan(Memory(arrays(checkpoint_dir, "dit")), DIT, tree)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(checkpoint_dir, abstract, value):
    tensors = arrays(checkpoint_dir, "text_encoder")
    tensors["shared.weight"][3, 5] = value
    load_params(Memory(tensors), UMT5, abstract["text_encoder"])
    with pytest.raises(InputError, match=rf"key 'shared.weight' is {value} at \[3, 5\], expected finite"):
        load_params(Memory(tensors), UMT5, abstract["text_encoder"], check_finite=True)


def test_values_that_overflow_the_dtype(checkpoint_dir, abstract):
    tensors = arrays(checkpoint_dir, "text_encoder")
    tensors["shared.weight"][0, 0] = 1e6
    load_params(Memory(tensors), UMT5, abstract["text_encoder"], check_finite=True)
    with pytest.raises(InputError, match=r"is inf at \[0, 0\], .*finite values in float16"):
        load_params(Memory(tensors), UMT5, abstract["text_encoder"], dtype="float16", check_finite=True)


def test_alias_may_be_there_or_take_its_targets_place(checkpoint_dir, abstract):
    tensors = arrays(checkpoint_dir, "text_encoder")
    plain = load_params(Memory(tensors), UMT5, abstract["text_encoder"])
    both = tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"]}
    only = {k: v for k, v in both.items() if k != "shared.weight"}
    for variant in (both, only):
        jax.tree.map(np.testing.assert_array_equal, load_params(Memory(variant), UMT5, abstract["text_encoder"]), plain)


def test_alias_of_other_values(checkpoint_dir, abstract):
    """One value in the last chunk is enough; a NaN in both is no difference, nor is a dtype that holds the value."""
    tensors = arrays(checkpoint_dir, "text_encoder")
    tensors["shared.weight"] = tensors["shared.weight"].astype(ml_dtypes.bfloat16)
    tensors["shared.weight"][0, 0] = np.nan
    alias = tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].astype(np.float32)
    load_params(Memory(tensors), UMT5, abstract["text_encoder"])
    tensors["shared.weight"][639, 1], alias[639, 1] = 0.5, 0.25
    message = (
        r"model.safetensors: key 'encoder.embed_tokens.weight' is 0.25 at \[639, 1\], but 'shared.weight' in "
        r"model.safetensors is 0.5: expected the same values in both; take whole files"
    )
    with pytest.raises(InputError, match=message):
        load_params(Memory(tensors), UMT5, abstract["text_encoder"])


def test_alias_of_another_shape(checkpoint_dir, abstract):
    tensors = arrays(checkpoint_dir, "text_encoder") | {"encoder.embed_tokens.weight": np.zeros((3, 64), np.float32)}
    with pytest.raises(InputError, match=r"'encoder.embed_tokens.weight' has shape \[3, 64\], expected \[640, 64\]"):
        load_params(Memory(tensors, readable=False), UMT5, abstract["text_encoder"])


def test_flatten_and_unflatten_are_inverse():
    tree = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert flatten(tree) == {"a/b/c": 1, "a/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree


_MESHES = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from lcv_jax.checkpoint import layout
from lcv_jax.checkpoint.load import flatten, load_params, unflatten

def spec(leaf, sizes):
    # Each mesh axis splits the last free axis that it divides: what a real resolver does, in short.
    axes = [None] * len(leaf.shape)
    for name, size in sizes.items():
        free = [i for i, n in enumerate(leaf.shape) if axes[i] is None and n % size == 0]
        if free:
            axes[free[-1]] = name
    return P(*axes)

models = [layout.open_model(layout.COMPONENTS["text_encoder"], path) for path in sys.argv[1:]]
flat = flatten(models[0].abstract)
plain = flatten(load_params(models[0].source, models[0].component.table, models[0].abstract))
report = {"devices": len(jax.devices()), "ways": []}
for model in models:
    for sizes in ({"fsdp": 8}, {"data": 2, "tensor": 4}):
        mesh = Mesh(np.array(jax.devices()).reshape(*sizes.values()), tuple(sizes))
        where = {path: NamedSharding(mesh, spec(leaf, sizes)) for path, leaf in flat.items()}
        loaded = load_params(
            model.source, model.component.table, model.abstract, shardings=unflatten(where)
        )
        ways = set()
        for path, value in flatten(loaded).items():
            shard = where[path].shard_shape(value.shape)
            assert value.sharding.is_equivalent_to(where[path], value.ndim), path
            assert all(s.data.shape == shard for s in value.addressable_shards), path
            assert np.asarray(value).tobytes() == np.asarray(plain[path]).tobytes(), path
            ways.add(value.size // int(np.prod(shard)))
        report["ways"].append(sorted(ways))
print(json.dumps(report))
"""


def test_the_same_bits_on_every_mesh(checkpoint_dir, tmp_path):
    """One device, 8 in a row, 2 x 4, either layout: equal bits, no device gets more than its shard."""
    source = SafetensorsSource(checkpoint_dir / "text_encoder")
    shutil.copy(source.path / "config.json", tmp_path)
    store.save(tmp_path / store.PARAMS, source.tensors, source.read)
    assert devices.report("-c", _MESHES, source.path, tmp_path) == {"devices": 8, "ways": [[8], [2, 8], [8], [2, 8]]}
