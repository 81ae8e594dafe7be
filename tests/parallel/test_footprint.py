"""What parts of a run are said to need, compared with what the compiler says; and what must follow by arithmetic."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.umt5 import TextStates
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_coding import Tiling, VAECoder
from lcv_jax.models.zoo import abstract_params
from lcv_jax.parallel import footprint
from lcv_jax.parallel.footprint import ACCELERATOR, HOST, Cut, StepLoad, step_moment, tree_bytes, vae_bytes
from lcv_jax.sample.denoise import sample_step

PUBLISHED = zoo.ARCHITECTURES["longcat-13b"]
SMALL = DiTConfig(hidden_size=256, depth=4, num_heads=4, caption_channels=64, adaln_tembed_dim=64)
NARROW = dataclasses.replace(PUBLISHED.vae, base_dim=8)
struct = jax.ShapeDtypeStruct
F32 = jnp.float32


def compiled_step(config, shape, text_tokens):
    """Temporaries of a guided step without cache."""
    text = TextStates(struct((2, text_tokens, config.caption_channels), F32), struct((2, text_tokens), jnp.bool_))
    params = {"params": abstract_params(config, FLOAT32)}
    scalar = struct((), F32)
    step = sample_step.lower(DiT(config, FLOAT32), params, struct(shape, F32), scalar, scalar, text, None, scalar)
    return step.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    ("config", "shape", "text_tokens"),
    [
        (SMALL, (1, 6, 32, 48, 16), 32),
        (dataclasses.replace(PUBLISHED.dit, depth=2), (1, 6, 16, 16, 16), 64),
        (dataclasses.replace(PUBLISHED.dit, depth=2), (1, 12, 32, 48, 16), 64),
    ],
    ids=["small", "published width, few tokens", "published width"],
)
def test_a_sampling_step_is_near_the_compilers_figure(config, shape, text_tokens):
    load = StepLoad(shape, passes=2, cached=0, cache_rows=1, text_tokens=text_tokens)
    estimate = step_moment(config, FLOAT32, load, Cut(), HOST).total
    assert 0.7 < estimate / compiled_step(config, shape, text_tokens) < 1.6


@pytest.mark.parametrize(
    ("config", "method", "side"),
    [
        (NARROW, "decode", 16),
        (PUBLISHED.vae, "decode", 24),
        (PUBLISHED.vae, "encode", 16),
    ],
    ids=["narrow", "published width", "published width, encoding"],
)
def test_a_step_of_the_autoencoder_is_near_the_compilers_figure(config, method, side):
    vae, params = WanVAE(config, FLOAT32), {"params": zoo.abstract_params(config, FLOAT32)}
    run = functools.partial(vae.apply, method=method, mutable=["stream"])
    frames = (1, 1) if method == "decode" else (1, 4)
    extent, channels = (side, config.z_dim) if method == "decode" else (8 * side, 3)
    start, later = (struct((1, count, extent, extent, channels), F32) for count in frames)
    _, state = jax.eval_shape(run, params, start)
    step = jax.jit(lambda p, s, x: run(p | s, x), donate_argnums=1)  # as a stream runs it
    step = step.lower(params, state, later).compile().memory_analysis()
    needed = step.temp_size_in_bytes + step.output_size_in_bytes
    assert 0.7 < vae_bytes(VAECoder(config, FLOAT32), side, side, method) / needed < 1.4


def test_tiles_of_the_autoencoder_need_less():
    whole, tiled = (VAECoder(NARROW, FLOAT32, tiling) for tiling in (None, Tiling(128, 32)))
    assert vae_bytes(tiled, 64, 64) < 0.9 * vae_bytes(whole, 64, 64)
    assert vae_bytes(tiled, 16, 16) == vae_bytes(whole, 16, 16)


def test_a_picture_cut_over_devices_needs_its_share():
    coder = VAECoder(NARROW, FLOAT32)
    whole, quarter = (vae_bytes(coder, 16, 16, "decode", parts) for parts in (1, 4))
    weights = tree_bytes(zoo.abstract_params(NARROW, FLOAT32)["decoder"])
    assert quarter - weights == pytest.approx((whole - weights) / 4, abs=1)


LOAD = StepLoad((2, 8, 32, 32, 16), passes=2, cached=4, cache_rows=2, text_tokens=16)


def moment(cut, backend=ACCELERATOR, precision=FLOAT32):
    return step_moment(SMALL, precision, LOAD, cut, backend)


def test_cutting_batch_or_tokens_divides_everything_that_belongs_to_a_token():
    weights = ACCELERATOR.weights(SMALL, FLOAT32, Cut())
    one, batch, tokens = (moment(cut) for cut in (Cut(), Cut(batch=2), Cut(tokens=2)))
    assert batch.activations == one.activations / 2
    assert batch.temporaries - weights == (one.temporaries - weights) / 2
    assert tokens.temporaries - weights == (one.temporaries - weights) / 2
    assert tokens.activations < one.activations


def test_the_stream_is_whole_under_tensor_parallelism_and_the_rest_is_not():
    one, cut = moment(Cut()), moment(Cut(heads=4))
    assert one.activations > cut.activations > one.activations / 4
    assert one.temporaries > cut.temporaries > one.temporaries / 4


def test_gathered_weights_are_the_dearer_the_earlier_they_come():
    block = footprint.block_bytes(SMALL, FLOAT32)
    assert block * SMALL.depth == tree_bytes(abstract_params(SMALL, FLOAT32)["blocks"])
    assert footprint.block_bytes(SMALL, BFLOAT16) == block / 2
    assert ACCELERATOR.weights(SMALL, FLOAT32, Cut()) == block
    assert ACCELERATOR.weights(SMALL, FLOAT32, Cut(weights=4)) == block // 4 + 2 * block
    largest = 3 * 256 * 256 * 4  # qkv
    ffn = 256 * SMALL.ffn_size * 4
    assert HOST.weights(SMALL, FLOAT32, Cut(weights=4)) == block // 4 + max(largest, ffn)


def test_only_attention_that_is_not_fused_holds_logits():
    shape = (1, 512, 4, 64)
    assert ACCELERATOR.logits(shape, 512, F32) == 0
    assert HOST.logits(shape, 512, F32) == 4 * 4 * 512 * 512
    assert footprint.Backend.here() == HOST
