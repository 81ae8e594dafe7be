"""LoRA files: both ways bit for bit, and those that do not belong to the model."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.lora import DOT, PREFIX, load_lora, save_lora
from lcv_jax.errors import InputError
from lcv_jax.models import zoo

HERE = settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MODULES = {  # of the golden DiT: in, out
    "blocks/attn/qkv": (128, 384),
    "blocks/cross_attn/kv_linear": (128, 256),
    "blocks/ffn/w2": (512, 128),
    "final_layer/adaLN_modulation": (64, 256),
    "final_layer/linear": (128, 64),
}


def key(module, part):
    return f"{PREFIX}{module.replace('.', DOT)}.{part}"


@pytest.mark.parametrize("name", ["cfg_step", "refinement"])
def test_golden_file_there_and_back_byte_for_byte(checkpoint_dir, abstract, tmp_path, name):
    path = checkpoint_dir / "lora" / f"{name}_lora.safetensors"
    save_lora(tmp_path / "back.safetensors", load_lora(path, abstract["dit"]))
    assert (tmp_path / "back.safetensors").read_bytes() == path.read_bytes()


def test_values_by_hand(checkpoint_dir, abstract):
    """A module's output written with the official tensors equals ours with down, up and scale."""
    path = checkpoint_dir / "lora" / "refinement_lora.safetensors"
    tensors = safetensors.numpy.load_file(path)
    lora = load_lora(path, abstract["dit"], dtype="float32")
    x = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    module = "blocks.0.adaLN_modulation.1"
    hidden = tensors[key(module, "lora_down.weight")].astype(np.float32) @ x
    official = np.concatenate(
        [
            tensors[key(module, f"lora_up.blocks.{k}.weight")].astype(np.float32) @ hidden[128 * k : 128 * (k + 1)]
            for k in range(6)
        ]
    ) * float(tensors[key(module, "alpha_scale")])
    ours = jax.tree.map(lambda leaf: leaf[0], lora["blocks"]["adaLN_modulation"])
    assert ours["up"].shape == (6, 128, 128)
    hidden = jnp.matmul(x, ours["down"], precision="highest").reshape(6, 128)
    delta = jnp.einsum("kr,kro->ko", hidden, ours["up"], precision="highest").reshape(-1) * ours["scale"]
    np.testing.assert_allclose(delta, official, atol=1e-4)
    assert float(lora["final_layer"]["linear"]["scale"]) == 0.25
    assert lora["final_layer"]["linear"]["down"].shape == (128, 128)


def test_layers_that_the_file_lacks_are_zero(checkpoint_dir, abstract):
    lora = load_lora(checkpoint_dir / "lora" / "refinement_lora.safetensors", abstract["dit"])
    modulation = lora["blocks"]["adaLN_modulation"]
    np.testing.assert_array_equal(modulation["scale"], np.float32([0.5, 0, 0]))
    assert modulation["scale"].dtype == jnp.float32
    assert not np.asarray(modulation["down"][1:]).any()
    assert not np.asarray(modulation["up"][1:]).any()


@st.composite
def loras(draw):
    rank = draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.dtype("float32"), np.dtype(ml_dtypes.bfloat16)]))
    tree = {}
    for module in draw(st.lists(st.sampled_from(list(MODULES)), min_size=1, unique=True)):
        d_in, d_out = MODULES[module]
        G = draw(st.sampled_from([1, 2, 4]))
        layers = (3,) if module.startswith("blocks") else ()
        node = {
            "down": rng.standard_normal((*layers, d_in, G * rank)).astype(dtype),
            "up": rng.standard_normal((*layers, G, rank, d_out // G)).astype(dtype),
            "scale": rng.uniform(0.1, 1, layers).astype(np.float32),
        }
        if layers:  # leave one layer out
            lost = draw(st.integers(0, 2))
            for value in node.values():
                value[lost] = 0
        parent = tree
        for part in module.split("/"):
            parent = parent.setdefault(part, {})
        parent.update(node)
    return tree


@HERE
@given(loras())
def test_any_lora_there_and_back(tmp_path, abstract, lora):
    """Any rank, any number of groups, any choice of modules and layers."""
    save_lora(tmp_path / "x.safetensors", lora)
    back = flatten(load_lora(tmp_path / "x.safetensors", abstract["dit"]))
    sent = flatten(lora)
    assert back.keys() == sent.keys()
    for leaf, value in sent.items():
        assert (back[leaf].dtype, back[leaf].shape) == (value.dtype, value.shape)
        assert np.asarray(back[leaf]).tobytes() == value.tobytes(), leaf


def test_shardings(checkpoint_dir, abstract):
    path = checkpoint_dir / "lora" / "cfg_step_lora.safetensors"
    plain = load_lora(path, abstract["dit"])
    replicated = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec())
    placed = load_lora(path, abstract["dit"], shardings=lambda t: jax.tree.map(lambda leaf: replicated, t))
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(placed))
    jax.tree.map(np.testing.assert_array_equal, placed, plain)


QKV = "blocks.1.attn.qkv"


def _drop(part):
    return lambda tensors: tensors.pop(key(QKV, part))


def _move(module):
    def change(tensors):
        for name in [n for n in tensors if n.startswith(key(QKV, ""))]:
            tensors[name.replace(key(QKV, ""), key(module, ""))] = tensors.pop(name)

    return change


def _put(part, value):
    return lambda tensors: tensors.update({key(QKV, part): value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop("lora_down.weight"), r"module 'blocks.1.attn.qkv' has no lora_down.weight: expected all parts"),
        (_drop("alpha_scale"), r"'blocks.1.attn.qkv' has no alpha_scale"),
        (_drop("lora_up.blocks.1.weight"), r"'blocks.1.attn.qkv' has no lora_up.blocks.1.weight"),
        (_put("lora_up.weight", np.zeros((4, 4), "f4")), r"has no lora_up.blocks.3.weight"),
        (_put("lora_mid.weight", np.zeros((4, 4), "f4")), r"lora_mid.weight' is not a part of a LoRA"),
        (_move("blocks.3.attn.qkv"), r"module 'blocks.3.attn.qkv': the DiT has 3 blocks: give a LoRA of this"),
        (_move("blocks.1.attn.to_q"), r"module 'blocks.1.attn.to_q' is not a linear layer of the DiT"),
        (_move("x_embedder.proj"), r"module 'x_embedder.proj' is not a linear layer of the DiT"),
        (_move("blocks.1.attn.q_norm"), r"module 'blocks.1.attn.q_norm' is not a linear layer of the DiT"),
        (
            _put("lora_down.weight", np.zeros((384, 64), ml_dtypes.bfloat16)),
            r"lora_down.weight' has shape \[384, 64\], expected \[384, 128\] for blocks.1.attn.qkv: give a LoRA",
        ),
        (_put("lora_down.weight", np.zeros((2, 128), "f4")), r"shape \[2, 128\], expected 3 groups of rows"),
        (
            _put("lora_up.blocks.2.weight", np.zeros((64, 128), ml_dtypes.bfloat16)),
            r"lora_up.blocks.2.weight' has shape \[64, 128\], expected \[128, 128\]",
        ),
        (_put("alpha_scale", np.zeros(3, "f4")), r"alpha_scale' has shape \[3\], expected \[\]"),
        (_put("alpha_scale", np.array(1, np.int32)), r"has dtype int32, expected one of float32"),
        (
            _put("lora_down.weight", np.zeros((384, 128), "f4")),
            r"rank, groups and dtypes are .*'float32'.* make them equal in all blocks",
        ),
    ],
)
def test_lora_that_does_not_fit(checkpoint_dir, abstract, tmp_path, change, message):
    tensors = safetensors.numpy.load_file(checkpoint_dir / "lora" / "cfg_step_lora.safetensors")
    change(tensors)
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(InputError, match=message) as error:
        load_lora(path, abstract["dit"])
    assert str(path) in str(error.value)


def test_groups_that_do_not_divide(checkpoint_dir, abstract, tmp_path):
    w2 = "blocks.1.ffn.w2"
    tensors = {key(w2, f"lora_up.blocks.{k}.weight"): np.zeros((42, 2), np.float32) for k in range(3)}
    tensors |= {key(w2, "lora_down.weight"): np.zeros((6, 512), np.float32), key(w2, "alpha_scale"): np.float32(1)}
    safetensors.numpy.save_file({k: np.asarray(v) for k, v in tensors.items()}, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=r"'blocks.1.ffn.w2' has 3 groups, expected a divisor of its 128"):
        load_lora(tmp_path / "x.safetensors", abstract["dit"])


def test_not_a_lora(checkpoint_dir, abstract):
    path = checkpoint_dir / "vae" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(InputError, match=r"not a LoRA file: expected names that begin with 'lora___"):
        load_lora(path, abstract["dit"])


def test_lora_of_the_full_size_model(checkpoint_dir):
    full = zoo.abstract_params(zoo.ARCHITECTURES["longcat-13b"].dit)
    with pytest.raises(InputError, match=r"has shape .*, expected .* give a LoRA of this model"):
        load_lora(checkpoint_dir / "lora" / "cfg_step_lora.safetensors", full)


def test_pickle(tmp_path, abstract):
    (tmp_path / "lora.pt").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"pickle files .* never read"):
        load_lora(tmp_path / "lora.pt", abstract["dit"])


def test_save_where_nothing_can_be_written(checkpoint_dir, abstract, tmp_path):
    lora = load_lora(checkpoint_dir / "lora" / "cfg_step_lora.safetensors", abstract["dit"])
    with pytest.raises(InputError, match=r"x.safetensors: cannot be written"):
        save_lora(tmp_path / "nowhere" / "x.safetensors", lora)
