"""The DiT with block sparse attention against the official numbers (goldens README 3, dit_bsa and dit_grad)."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import DIT
from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT, abstract_params
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.ops.sparse_attention import BlockSparseAttention

CUBE = (4, 4, 4)


@pytest.fixture(scope="module")
def config(checkpoint_dir):
    return DiTConfig.from_json(json.loads((checkpoint_dir / "dit" / "config.json").read_text()))


@pytest.fixture(scope="module")
def params(checkpoint_dir, config):
    return load_params(SafetensorsSource(checkpoint_dir / "dit"), DIT, abstract_params(config, FLOAT32))


def sparse_dit(config, **change):
    settings = {"block_q": CUBE, "block_k": CUBE, "sparsity": config.bsa_params.sparsity, "implementation": "xla"}
    return DiT(config, FLOAT32, BlockSparseAttention(**(settings | change)))


def channels_last(x):
    return np.moveaxis(x, 1, -1)


def inputs(golden, prefix):
    g = {k.removeprefix(prefix): v for k, v in golden.items() if k.startswith(prefix)}
    latents = channels_last(g["hidden_states"])
    time = g["timestep"] / 1000
    if time.ndim == 1:
        time = np.broadcast_to(time[:, None], latents.shape[:2])
    return g, latents, time, g["encoder_hidden_states"][:, 0], g["encoder_attention_mask"] > 0


def close(ours, official):
    np.testing.assert_allclose(ours, official, atol=1e-4, rtol=0)


def test_text_to_video(goldens, config, params):
    g, *args = inputs(goldens("dit_bsa"), "t2v_")
    out = jax.jit(lambda *a: sparse_dit(config).apply({"params": params}, *a))(*args)
    close(out, channels_last(g["output"]))


def test_continuation_with_and_without_cache(goldens, config, params):
    g, latents, t, text, mask = inputs(goldens("dit_bsa"), "vc_")
    n, dit = int(g["num_cond_latents"]), sparse_dit(config)
    whole = jax.jit(lambda *a: dit.apply({"params": params}, *a, num_cond=n))(latents, t, text, mask)
    close(whole, channels_last(g["output"]))
    found = jax.jit(lambda z: dit.apply({"params": params}, z, method="condition"))(latents[:, :n])
    close(found.velocity, channels_last(g["cond_pass_output"]))
    cached = jax.jit(lambda *a: dit.apply({"params": params}, *a[:-1], cache=a[-1]))(
        latents[:, n:], t[:, n:], text, mask, found.cache
    )
    close(cached, channels_last(g["output_noise_cached"]))


def test_gradients(goldens, config, params):
    g, latents, t, text, mask = inputs(goldens("dit_grad"), "bsa_")
    target, dit = channels_last(g["target"]), sparse_dit(config)

    @jax.jit
    def run(params, latents):
        def loss(params, latents):
            return jnp.square(dit.apply({"params": params}, latents, t, text, mask) - target).mean()

        return jax.value_and_grad(loss, argnums=(0, 1))(params, latents)

    value, (grads, latent_grad) = run(params, latents)
    assert float(value) == pytest.approx(float(g["loss"]), abs=1e-5)
    official = channels_last(g["grad_hidden_states"])
    assert np.linalg.norm(latent_grad - official) <= 1e-4 * np.linalg.norm(official)
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        for name, place in DIT.names("/".join(p.key for p in path), leaf.shape[0]):
            named[name] = place.axes.official(np.asarray(leaf if place.layer is None else leaf[place.layer]))
    for name, norm in zip(goldens("dit_grad")["grad_norm_names"], g["grad_norms"], strict=True):
        assert np.linalg.norm(named[str(name)]) == pytest.approx(float(norm), rel=1e-4), name
    for key in (k for k in g if k.removeprefix("grad_") in named):
        ours = named[key.removeprefix("grad_")]
        assert np.linalg.norm(ours - g[key]) <= 1e-4 * np.linalg.norm(g[key]), key


def test_sparsity_zero_is_dense_and_blocks_may_differ(goldens, config, params):
    """Also where queries and keys have other blocks, so that tokens are regrouped in every layer."""
    _, *args = inputs(goldens("dit_bsa"), "t2v_")
    dense = jax.jit(lambda *a: DiT(config, FLOAT32).apply({"params": params}, *a))(*args)
    for block_k in (CUBE, (4, 4, 8)):
        dit = sparse_dit(config, block_k=block_k, sparsity=0.0)
        close(jax.jit(lambda *a, dit=dit: dit.apply({"params": params}, *a))(*args), dense)


def test_an_image_stays_dense(config, params):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(1, 1, 6, 6, 16)).astype(np.float32)
    args = latents, np.full((1, 1), 0.5, np.float32), rng.normal(size=(1, 3, 64)).astype(np.float32)
    sparse = sparse_dit(config).apply({"params": params}, *args)
    np.testing.assert_array_equal(sparse, DiT(config, FLOAT32).apply({"params": params}, *args))


@pytest.mark.parametrize(
    ("frames", "side", "num_cond", "message"),
    [
        (6, 8, 0, r"T 6 is no multiple of 4 \(4 or 8 would be\)"),
        (4, 12, 0, r"H 6 is no multiple of 4 \(4 or 8 would be\); W 6"),
        (8, 8, 2, "2 condition frames do not divide into blocks of 4 frames"),
    ],
)
def test_grids_that_do_not_divide_say_what_would(config, params, frames, side, num_cond, message):
    args = jnp.zeros((1, frames, side, side, 16)), jnp.zeros((1, frames)), jnp.zeros((1, 3, 64))
    with pytest.raises(InputError, match=message):
        sparse_dit(config).apply({"params": params}, *args, num_cond=num_cond)


def test_a_cache_of_another_attention_is_refused(config, params):
    latents, text = jnp.zeros((1, 4, 8, 8, 16)), jnp.zeros((1, 3, 64))
    found = DiT(config, FLOAT32).apply({"params": params}, latents, method="condition")
    with pytest.raises(InputError, match="make it with the same attention"):
        sparse_dit(config).apply({"params": params}, latents, jnp.zeros((1, 4)), text, cache=found.cache)
