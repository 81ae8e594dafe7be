"""The DiT compiled at full width: FLOPs over the arithmetic's minimum, 48 blocks over 2, cached over uncached.

Nothing is run and no weights are allocated: the program is compiled for this machine from abstract arrays.

    python -m benchmarks.dit_compile
"""

import dataclasses
import time

import jax
import jax.numpy as jnp

from benchmarks.common import Result, Row, write
from lcv_jax.models.dit import DiT, KVCache
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.zoo import abstract_params
from lcv_jax.parallel.hlo import count_flops

# 480 x 832, 93 frames: 24 latent frames of 30 x 52 tokens.
T, H, W, TEXT = 24, 30, 52, 512
COND = 4


def compiled(config, frames=T, num_cond=0, cached=0, precision=FLOAT32):
    """The compiled forward pass, and seconds to trace, lower and compile it."""
    model = DiT(config, precision)
    latents = jax.ShapeDtypeStruct((1, frames, 2 * H, 2 * W, config.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1, frames), jnp.float32)
    text = jax.ShapeDtypeStruct((1, TEXT, config.caption_channels), jnp.float32)
    keys = (config.depth, 1, cached, H * W, config.num_heads, config.head_dim)
    keys = jax.ShapeDtypeStruct(keys, precision.compute)
    cache = KVCache(keys, keys, cached) if cached else None

    def run(params, latents, t, text, cache):
        return model.apply({"params": params}, latents, t, text, num_cond=num_cond, cache=cache)

    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(run).lower(abstract_params(config, precision), latents, t, text, cache).compile()
    return program, time.perf_counter() - start


def flops_row(case, config, frames, num_cond, cached):
    """FLOPs of one forward over the least that the arithmetic needs."""
    program, _ = compiled(config, frames, num_cond, cached)
    found = count_flops(program)
    assert not found.uncounted, found.uncounted
    counted = found.total
    least = forward_flops(config, Geometry((frames, H, W), num_cond, cached), TEXT)
    figures = {"compiled_PFLOP": counted / 1e15, "least_PFLOP": least / 1e15}
    return Row(case, ratio=counted / least, minimum=1.0, goal=1.05, figures=figures), counted, least


def compile_row(rounds=3):
    """Median compile time of 48 blocks over 2 blocks, alternated."""
    full = DiTConfig()
    shallow = dataclasses.replace(full, depth=2)
    compiled(shallow)  # the first compilation of a process also starts the compiler
    pairs = [(compiled(full)[1], compiled(shallow)[1]) for _ in range(rounds)]
    deep, flat = sorted(pairs, key=lambda p: p[0] / p[1])[rounds // 2]
    return Row("compile time, 48 blocks over 2", deep / flat, 1.0, 1.3, {"48_blocks_s": deep, "2_blocks_s": flat})


def main():
    config = DiTConfig()
    whole, _, _ = flops_row("forward FLOPs, 480 x 832 x 93, text to video", config, T, 0, 0)
    uncached, uncached_flops, uncached_least = flops_row(
        "forward FLOPs, continuation without cache", config, T, COND, 0
    )
    cached, cached_flops, cached_least = flops_row("forward FLOPs, continuation with cache", config, T - COND, 0, COND)
    predicted = cached_least / uncached_least
    step = Row(
        "continuation step, cached over uncached FLOPs",
        cached_flops / uncached_flops,
        minimum=predicted,
        goal=predicted * 1.05,
        figures={"predicted": predicted},
    )
    write(
        Result(
            "dit_compile",
            "The 13.6B DiT compiled",
            over="compiled over the least, compile time of 48 over 2 blocks, cached over uncached step",
            rows=(whole, uncached, cached, step, compile_row()),
            minimum="lcv_jax/models/flops.py: matrix products of the forward pass, nothing twice",
            notes="FLOPs are counted in the optimised HLO, loops by their trip counts (lcv_jax/parallel/hlo.py).",
        )
    )


if __name__ == "__main__":
    main()
