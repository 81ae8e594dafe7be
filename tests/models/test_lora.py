"""New adapters: the published names and sizes, nothing changed at first, everything trainable."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import training
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.lora import load_lora, save_lora
from lcv_jax.errors import InputError
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.layers import lora_collection
from lcv_jax.models.lora import CFG_STEP_LINEARS, REFINEMENT_LINEARS, LoRAConfig, init_lora
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.zoo import abstract_params


@pytest.mark.parametrize(
    ("modules", "parameters", "tensors"),
    [(CFG_STEP_LINEARS, 630_718_464, 1_152), (REFINEMENT_LINEARS, 802_299_904, 1_543)],
)
def test_published_adapters_have_as_many_parameters(modules, parameters, tensors):
    """And tensors (SPEC 7): of each layer and module a scale, what goes down, and what goes up of each group."""
    shapes = abstract_params(DiTConfig(), FLOAT32)
    tree = jax.eval_shape(lambda: init_lora(LoRAConfig(modules=modules), shapes, jax.random.key(0)))
    flat = flatten(tree)
    assert sum(math.prod(x.shape) for path, x in flat.items() if not path.endswith("scale")) == parameters
    ups = {path: x.shape[-3] for path, x in flat.items() if path.endswith("up")}
    assert sum((48 if path.startswith("blocks/") else 1) * (2 + groups) for path, groups in ups.items()) == tensors
    assert "blocks/cross_attn/proj/down" not in flat


@pytest.mark.smoke
def test_a_new_adapter_changes_nothing_and_all_of_it_learns():
    model = training.dit()
    params = training.awake(training.init(model))
    adapter = init_lora(LoRAConfig(rank=2, alpha=1), params, jax.random.key(3))
    batch = training.batch(size=1)

    @jax.jit
    def run(adapter):
        variables = {"params": params, "lora": lora_collection({"new": adapter})}
        return model.apply(variables, batch.latents, np.full((1, 3), 0.5), batch.text.states, batch.text.mask)

    plain = model.apply({"params": params}, batch.latents, np.full((1, 3), 0.5), batch.text.states, batch.text.mask)
    np.testing.assert_allclose(run(adapter), plain, atol=1e-5)
    up = jax.jit(jax.grad(lambda a: jnp.square(run(a)).mean()))(adapter)
    assert all(np.abs(x).max() > 0 for path, x in flatten(up).items() if path.endswith("up"))
    assert np.abs(run(training.awake(adapter)) - plain).max() > 1e-2


def test_a_new_adapter_survives_its_file(tmp_path):
    shapes = abstract_params(training.TINY, FLOAT32)
    config = LoRAConfig(rank=2, alpha=1, modules=r"blocks/attn/qkv|final_layer/linear")
    adapter = training.awake(init_lora(config, shapes, jax.random.key(3)))
    save_lora(tmp_path / "new.safetensors", adapter)
    jax.tree.map(np.testing.assert_array_equal, load_lora(tmp_path / "new.safetensors", shapes), adapter)


def test_a_layer_depends_on_its_path_only():
    shapes = abstract_params(training.TINY, FLOAT32)
    whole = init_lora(LoRAConfig(rank=2), shapes, jax.random.key(3))
    part = init_lora(LoRAConfig(rank=2, modules="blocks/ffn/w2"), shapes, jax.random.key(3))
    down = part["blocks"]["ffn"]["w2"]["down"]
    np.testing.assert_array_equal(down, whole["blocks"]["ffn"]["w2"]["down"])
    assert np.abs(down).max() <= 1 / math.sqrt(256)
    assert np.abs(down).max() > 0.9 / math.sqrt(256)
    assert set(part["blocks"]) == {"ffn"}


def test_bad_adapters_raise():
    with pytest.raises(InputError, match="rank=0"):
        LoRAConfig(rank=0)
    with pytest.raises(InputError, match="alpha=0"):
        LoRAConfig(alpha=0)
    with pytest.raises(InputError, match=r"modules='blocks/attention/.*' matches no linear layer"):
        init_lora(LoRAConfig(modules="blocks/attention/.*"), abstract_params(training.TINY, FLOAT32), jax.random.key(0))
