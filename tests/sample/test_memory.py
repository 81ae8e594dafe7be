"""What a run is said to need, compared with what the compiler says."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT, abstract_params
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5 import TextStates
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_coding import Tiling, VAECoder
from lcv_jax.sample import memory
from lcv_jax.sample.denoise import sample_step

CONFIG = DiTConfig(hidden_size=256, depth=4, num_heads=4, caption_channels=64, adaln_tembed_dim=64)
VAE = dataclasses.replace(zoo.ARCHITECTURES["longcat-13b"].vae, base_dim=8)


def test_the_estimate_is_near_the_compilers_figure():
    dit = DiT(CONFIG, FLOAT32)
    shape = (1, 6, 32, 48, 16)
    struct = jax.ShapeDtypeStruct
    text = TextStates(struct((2, 32, 64), jnp.float32), struct((2, 32), jnp.bool_))
    step = sample_step.lower(
        dit,
        {"params": abstract_params(CONFIG, FLOAT32)},
        struct(shape, jnp.float32),
        struct((), jnp.float32),
        struct((), jnp.float32),
        text,
        None,
        struct((), jnp.float32),
    ).compile()
    needed = step.memory_analysis().temp_size_in_bytes
    load = memory.StepLoad(shape, passes=2, cached=0, cache_rows=1, text_tokens=32)
    assert 0.5 < memory.step_bytes(dit, load) / needed < 2


def test_a_cache_shared_by_the_batch_counts_once():
    dit = DiT(CONFIG, FLOAT32)
    shared, own = (memory.StepLoad((4, 2, 8, 8, 16), 2, 3, rows, 32) for rows in (1, 4))
    keys_and_values = 2 * CONFIG.depth * 3 * 16 * CONFIG.hidden_size * 4
    assert memory.step_bytes(dit, own) - memory.step_bytes(dit, shared) == 3 * keys_and_values


def test_the_decoders_estimate_is_near_the_compilers_figure():
    vae, params = WanVAE(VAE, FLOAT32), {"params": zoo.abstract_params(VAE, FLOAT32)}
    decode = functools.partial(vae.apply, method="decode", mutable=["stream"])
    z = jax.ShapeDtypeStruct((1, 1, 16, 16, VAE.z_dim), jnp.float32)
    _, state = jax.eval_shape(decode, params, z)
    step = jax.jit(lambda p, s, z: decode(p | s, z)).lower(params, state, z).compile().memory_analysis()
    needed = step.temp_size_in_bytes + step.output_size_in_bytes
    assert 0.5 < memory.vae_bytes(VAECoder(VAE, FLOAT32), 16, 16) / needed < 2


def test_tiles_of_the_autoencoder_need_less():
    whole, tiled = (VAECoder(VAE, FLOAT32, tiling) for tiling in (None, Tiling(128, 32)))
    assert memory.vae_bytes(tiled, 64, 64) < 0.9 * memory.vae_bytes(whole, 64, 64)
    assert memory.vae_bytes(tiled, 16, 16) == memory.vae_bytes(whole, 16, 16)


def test_what_does_not_fit_is_refused_with_the_figure(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 3 * memory.GIB)
    memory.check(2 * memory.GIB, "this", "nothing")
    with pytest.raises(InputError, match=r"this needs about 4\.0 GiB, 3\.0 GiB are free: shrink it"):
        memory.check(4 * memory.GIB, "this", "shrink it")
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    memory.check(4 * memory.GIB, "a silent backend", "nothing")


def test_a_cpu_tells_what_is_free():
    assert memory.free_bytes() > 0
