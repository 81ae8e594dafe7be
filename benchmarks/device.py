"""The published model's sizes on an accelerator, with random weights: seconds, FLOP/s and memory of every part.

    python -m benchmarks.device                       # 13.6B, 480 x 832, 93 frames: one device with 80 GB
    python -m benchmarks.device --depth 2 --height 64 --width 96 --num-frames 9   # a look at it on any machine

The result is benchmarks/results/device.{json,md}. The ratio of each row is its seconds over those that its least FLOPs
take at the device's peak, so that 1 / ratio is the MFU.
"""

import argparse
import dataclasses
import functools
import statistics
import time

import jax
import jax.numpy as jnp

from benchmarks.common import Result, Row, write
from lcv_jax.flow.schedule import sigmas
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.precision import BFLOAT16
from lcv_jax.models.umt5 import TextStates, UMT5Encoder
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.models.zoo import ARCHITECTURES, abstract_params
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.sample.denoise import sample_step

# Dense bfloat16 FLOP/s by JAX's device kind (vendors' data sheets).
PEAK = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12, "NVIDIA H800": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}
TEXT, COND = 512, 4
# Official: 480 x 832 x 93, 50 guided steps on one H800 (report table 2), the whole run.
PUBLISHED_S = 341.5


def random_params(abstract, seed=0):
    """Small normal numbers in the shape of `abstract`, made on the device leaf by leaf."""
    make = jax.jit(lambda key, like: 0.02 * jax.random.normal(key, like.shape, like.dtype), static_argnames="like")
    leaves, tree = jax.tree.flatten(abstract)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [make(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])


def seconds(call, rounds):
    """Median seconds of `call`, which is waited for; the first call compiles and is not counted."""
    jax.block_until_ready(call())
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(case, took, flops, **figures):
    """took in seconds, flops the least that the work needs."""
    device = jax.devices()[0]
    peak = PEAK.get(device.device_kind)
    figures = {"seconds": took, "least_TFLOP": flops / 1e12, "TFLOP_per_s": flops / took / 1e12, **figures}
    if peak is not None:
        figures["MFU"] = flops / peak / took
    stats = device.memory_stats()
    if stats:
        figures["peak_GiB"] = stats["peak_bytes_in_use"] / 2**30
    # Without a known peak the ratio is over the seconds at one TFLOP/s.
    return Row(case, ratio=took / (flops / (peak or 1e12)), minimum=1.0, figures=figures)


def dit_rows(args, config):
    """Guided and unguided steps, and a guided continuation step with its cache."""
    model = DiT(config, BFLOAT16)
    variables = {"params": random_params(abstract_params(config, BFLOAT16))}
    T, h, w = (args.num_frames - 1) // 4 + 1, args.height // 8, args.width // 8
    t, t_next = (jnp.float32(x) for x in sigmas("base", 50)[20:22])

    def states(rows):
        return TextStates(jnp.ones((rows, TEXT, config.caption_channels), jnp.bfloat16), jnp.ones((rows, TEXT), bool))

    def step(frames, rows, cache):
        # The latents are donated, so every call draws its own; that costs nothing beside a step.
        guidance = jnp.float32(4.0) if rows == 2 else None
        latents = jax.random.normal(jax.random.key(0), (1, frames, h, w, config.in_channels))
        return sample_step(model, variables, latents, t, t_next, states(rows), cache, guidance)

    def flops(frames, rows, cached=0):
        return forward_flops(config, Geometry((frames, h // 2, w // 2), cached=cached), TEXT, batch=rows)

    took = seconds(functools.partial(step, T, 2, None), args.rounds)
    size = f"{args.height} x {args.width} x {args.num_frames}"
    run = {"50_steps_s": 50 * took, "published_run_s": PUBLISHED_S}
    yield row(f"guided step, {size}", took, flops(T, 2), **run)
    took = seconds(functools.partial(step, T, 1, None), args.rounds)
    yield row(f"step, {size}", took, flops(T, 1), **{"16_steps_s": 16 * took})
    if T > COND:
        run_condition = jax.jit(lambda v, z: model.apply(v, z, method="condition").cache)
        cache = run_condition(variables, jnp.ones((1, COND, h, w, config.in_channels)))
        took = seconds(functools.partial(step, T - COND, 2, cache), args.rounds)
        yield row(f"guided continuation step with cache, {size}", took, flops(T - COND, 2, COND))


def text_row(args, config):
    """One prompt of 512 tokens."""
    model = UMT5Encoder(config, BFLOAT16)
    params = random_params(abstract_params(config, BFLOAT16))
    ids, mask = jnp.ones((1, TEXT), jnp.int32), jnp.ones((1, TEXT), bool)
    encode = jax.jit(lambda p, i, m: model.apply({"params": p}, i, m))
    flops = count_flops(encode.lower(params, ids, mask).compile()).total
    return row("umT5, one prompt of 512 tokens", seconds(lambda: encode(params, ids, mask), args.rounds), flops)


def vae_rows(args, config):
    """Decoding the whole video as a stream, encoding 13 condition frames."""
    coder = VAECoder(config, BFLOAT16)
    model = WanVAE(config, BFLOAT16)
    params = random_params(abstract_params(config, BFLOAT16))
    T, h, w = (args.num_frames - 1) // 4 + 1, args.height // 8, args.width // 8
    z = jnp.ones((1, T, h, w, config.z_dim))
    video = jnp.zeros((1, 13, args.height, args.width, 3))

    def flops(x, method):
        run = jax.jit(lambda p, x: model.apply({"params": p}, x, method=method))
        return count_flops(run.lower(params, jax.ShapeDtypeStruct(x.shape, x.dtype)).compile()).total

    decode = seconds(lambda: list(coder.decode_stream(params, [z])), args.rounds)
    yield row(f"VAE decode, {args.num_frames} frames", decode, flops(z, "decode"))
    encode = seconds(lambda: list(coder.encode_stream(params, [video])), args.rounds)
    yield row("VAE encode, 13 frames", encode, flops(video, "encode"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"height": 480, "width": 832, "num-frames": 93, "depth": 48, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    model = ARCHITECTURES["longcat-13b"]
    text = dataclasses.replace(model.text_encoder, num_layers=max(1, args.depth // 2))
    rows = [text_row(args, text), *vae_rows(args, model.vae)]
    rows += dit_rows(args, dataclasses.replace(model.dit, depth=args.depth))
    write(
        Result(
            "device",
            f"One {jax.devices()[0].device_kind}",
            over="seconds over those of the least FLOPs at the peak (at 1 TFLOP/s where the peak is not known)",
            rows=rows,
            minimum="matrix products and convolutions, nothing twice",
            notes=f"Random bfloat16 weights, {args.depth} blocks. 50_steps_s is the DiT alone; published_run_s is the "
            "official whole run of 480 x 832 x 93 on one H800.",
        )
    )


if __name__ == "__main__":
    main()
