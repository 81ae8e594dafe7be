"""The DiT with block sparse attention against the official numbers (goldens README 3, dit_bsa and dit_grad)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_goldens import channels_last, check_gradients, inputs, part, read_config, read_params
from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT
from lcv_jax.models.precision import FLOAT32
from lcv_jax.ops.sparse_attention import BlockSparseAttention

CUBE = (4, 4, 4)


@pytest.fixture(scope="module")
def config(checkpoint_dir):
    return read_config(checkpoint_dir)


@pytest.fixture(scope="module")
def params(checkpoint_dir, config):
    return read_params(checkpoint_dir, config)


def sparse_dit(config, **change):
    settings = {"block_q": CUBE, "block_k": CUBE, "sparsity": config.bsa_params.sparsity}
    return DiT(config, FLOAT32, BlockSparseAttention(**(settings | change)))


def close(ours, official):
    np.testing.assert_allclose(ours, official, atol=1e-4, rtol=0)


def test_text_to_video(goldens, config, params):
    g = part(goldens("dit_bsa"), "t2v_")
    out = jax.jit(lambda *a: sparse_dit(config).apply({"params": params}, *a))(*inputs(g))
    close(out, channels_last(g["output"]))


def test_continuation_with_and_without_cache(goldens, config, params):
    g = part(goldens("dit_bsa"), "vc_")
    latents, t, text, mask = inputs(g)
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
    g = goldens("dit_grad")
    check_gradients(sparse_dit(config), params, part(g, "bsa_"), [str(n) for n in g["grad_norm_names"]])


def test_sparsity_zero_is_dense_and_blocks_may_differ(goldens, config, params):
    """Also where queries and keys have other blocks, so that tokens are regrouped in every layer."""
    args = inputs(part(goldens("dit_bsa"), "t2v_"))
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
