"""What the tests of the dense and of the block sparse DiT share: checkpoint, inputs, the check of gradients."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import DIT
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.zoo import abstract_params


def read_config(checkpoint):
    return DiTConfig.from_json(json.loads((checkpoint / "dit" / "config.json").read_text()))


def read_params(checkpoint, config):
    return load_params(SafetensorsSource(checkpoint / "dit"), DIT, abstract_params(config, FLOAT32))


def part(golden, prefix):
    """The arrays whose names begin with prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in golden.items() if name.startswith(prefix)}


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def inputs(golden, t="timestep"):
    """(latents, t, text, mask) as our DiT takes them."""
    latents = channels_last(golden["hidden_states"])
    time = golden[t] / 1000
    if time.ndim == 1:
        time = np.broadcast_to(time[:, None], latents.shape[:2])
    return latents, time, golden["encoder_hidden_states"][:, 0], golden["encoder_attention_mask"] > 0


def check_gradients(model, params, golden, names):
    """Loss, output and all gradients of the mean squared error: norms, and whole ones within 1e-4 of their norm.

    names: the official parameters in the order of the golden norms.
    """
    latents, t, text, mask = inputs(golden)
    target = channels_last(golden["target"])

    @jax.jit
    def run(params, latents):
        def loss(params, latents):
            out = model.apply({"params": params}, latents, t, text, mask)
            return jnp.square(out - target).mean(), out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, latents)

    (value, out), (grads, latent_grad) = run(params, latents)
    np.testing.assert_allclose(out, channels_last(golden["output"]), atol=1e-4, rtol=0)
    assert float(value) == pytest.approx(float(golden["loss"]), abs=1e-5)
    _relative_close(latent_grad, channels_last(golden["grad_hidden_states"]))
    named = official(grads)
    assert sorted(names) == sorted(named)
    for name, norm in zip(names, golden["grad_norms"], strict=True):
        assert np.linalg.norm(named[name]) == pytest.approx(float(norm), rel=1e-4), name
    whole = part(golden, "grad_").keys() & named.keys()
    assert len(whole) == 13
    for name in whole:
        _relative_close(named[name], golden[f"grad_{name}"])


def official(grads):
    """Our gradients under official names, in official axis order."""
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        for name, place in DIT.names("/".join(p.key for p in path), leaf.shape[0]):
            named[name] = place.axes.official(np.asarray(leaf if place.layer is None else leaf[place.layer]))
    return named


def _relative_close(ours, official):
    assert np.linalg.norm(np.asarray(ours) - official) <= 1e-4 * np.linalg.norm(official)
