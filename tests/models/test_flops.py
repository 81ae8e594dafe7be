import dataclasses

import jax
import jax.numpy as jnp
import pytest

from lcv_jax.models.dit import DiT, KVCache
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.precision import FLOAT32
from lcv_jax.parallel.hlo import count_flops

CONFIG = DiTConfig(hidden_size=96, depth=3, num_heads=4, caption_channels=48, adaln_tembed_dim=32)
FULL = DiTConfig()


def compiled_flops(config, frames, side, text_tokens, num_cond=0, cached=0):
    model = DiT(config, FLOAT32)
    latents = jax.ShapeDtypeStruct((1, frames, side, side, 16), jnp.float32)
    t = jax.ShapeDtypeStruct((1, frames), jnp.float32)
    text = jax.ShapeDtypeStruct((1, text_tokens, config.caption_channels), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), latents, t, text)
    keys = jax.ShapeDtypeStruct((config.depth, 1, cached, side * side // 4, config.num_heads, config.head_dim), t.dtype)
    cache = KVCache(keys, keys, cached) if cached else None

    def run(params, latents, t, text, cache):
        return model.apply(params, latents, t, text, num_cond=num_cond, cache=cache)

    return count_flops(jax.jit(run).lower(params, latents, t, text, cache).compile()).total


@pytest.mark.parametrize(("num_cond", "cached"), [(0, 0), (2, 0), (0, 2)])
def test_the_program_does_what_the_arithmetic_says(num_cond, cached):
    geometry = Geometry((5, 4, 4), cond=num_cond, cached=cached)
    expected = forward_flops(CONFIG, geometry, text_tokens=6)
    ratio = compiled_flops(CONFIG, 5, 8, 6, num_cond, cached) / expected
    assert 1 <= ratio < 1.05


def test_by_hand_for_the_published_model():
    # 37,440 tokens (480 x 832, 93 frames). A block's products a token: 4 D^2 + 2 D^2 + 3 D F; attention 2 D N.
    N, D, F = 37440, 4096, 11008
    by_hand = 2 * 48 * N * (6 * D * D + 3 * D * F + 2 * D * N)
    counted = forward_flops(FULL, Geometry((24, 30, 52)), text_tokens=512)
    assert counted == pytest.approx(by_hand, rel=0.02)
    assert counted > by_hand


def test_blocks_and_batch_are_linear():
    one, two = (dataclasses.replace(CONFIG, depth=d) for d in (1, 2))
    g = Geometry((2, 4, 4))
    per_block = forward_flops(two, g, 6) - forward_flops(one, g, 6)
    assert forward_flops(CONFIG, g, 6) == forward_flops(one, g, 6) + 2 * per_block
    assert forward_flops(CONFIG, g, 6, batch=3) == 3 * forward_flops(CONFIG, g, 6)
