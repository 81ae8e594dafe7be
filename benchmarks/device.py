"""The published model's sizes on an accelerator, with random weights: seconds, FLOP/s and memory of every part.

    python -m benchmarks.device                       # 13.6B at 480 x 832 x 93, and the decoder at 704 x 1280 x 189
    python -m benchmarks.device --parts dit,whole     # some of text, vae, dit, whole; the other rows stay as they were
    python -m benchmarks.device --depth 2 --height 64 --width 96 --num-frames 9 --refined-height 64 --refined-width 96

One device with 80 GB is enough. Every part runs in a process of its own, so that its peak of memory is its own and a
part that fails loses nothing but itself; about five minutes each on an H100. The result is
benchmarks/results/device.{json,md}. The ratio of a row is its seconds over those that its least FLOPs take at the rate
at which the same process multiplied two large bfloat16 matrices: 1 / ratio is the share of that rate.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import RESULTS, Result, Row, write
from lcv_jax.flow.schedule import sigmas
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.layers import lora_collection
from lcv_jax.models.precision import BFLOAT16
from lcv_jax.models.umt5 import TextStates, UMT5Encoder
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.models.zoo import ARCHITECTURES, abstract_params
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.sample.denoise import Conditioning, denoise, sample_step

TEXT, COND = 512, 4
# Official whole runs of 480 x 832 x 93 on one H800 (report table 2): 50 guided steps, 16 distilled ones.
PUBLISHED_S, PUBLISHED_DISTILLED_S = 341.5, 61.3
GOAL = 1 / 0.75
# The cfg_step LoRA: what it adapts, and how many groups each has.
RANK = 128
ADAPTED = {
    "attn": {"qkv": 3, "proj": 1},
    "cross_attn": {"q_linear": 1, "kv_linear": 2},
    "ffn": {f"w{i}": 1 for i in (1, 2, 3)},
}


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


@functools.cache
def matmul_rate():
    """FLOP/s of the device at one large bfloat16 product."""
    side = 512 if jax.default_backend() == "cpu" else 8192
    a, b = (jnp.ones((side, side), jnp.bfloat16) for _ in range(2))
    product = jax.jit(jnp.matmul)
    calls = 20  # queued, so that the host's part is hidden
    return 2 * side**3 * calls / seconds(lambda: [product(a, b) for _ in range(calls)], 5)


def row(case, took, flops, goal=None, **figures):
    """took in seconds, flops the least that the work needs."""
    rate = matmul_rate()
    figures = {"seconds": took, "least_TFLOP": flops / 1e12, "TFLOP_per_s": flops / took / 1e12, **figures}
    figures |= {"matmul_TFLOP_per_s": rate / 1e12, "share_of_it": flops / took / rate}
    stats = jax.devices()[0].memory_stats()
    if stats:
        figures["peak_GiB"] = stats["peak_bytes_in_use"] / 2**30
    return Row(case, ratio=took / (flops / rate), minimum=1.0, goal=goal, figures=figures)


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
    yield row(f"guided step, {size}", took, flops(T, 2), GOAL, **run)
    took = seconds(functools.partial(step, T, 1, None), args.rounds)
    yield row(f"step, {size}", took, flops(T, 1), GOAL, **{"16_steps_s": 16 * took})
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
    """Decoding whole videos as streams, encoding 13 condition frames."""
    coder = VAECoder(config, BFLOAT16)
    model = WanVAE(config, BFLOAT16)
    params = random_params(abstract_params(config, BFLOAT16))

    def flops(x, method):
        run = jax.jit(lambda p, x: model.apply({"params": p}, x, method=method))
        return count_flops(run.lower(params, jax.ShapeDtypeStruct(x.shape, x.dtype)).compile()).total

    refined = 2 * args.num_frames + 3  # what a refined video is decoded to before it is cut
    for frames, height, width in (
        (args.num_frames, args.height, args.width),
        (refined, args.refined_height, args.refined_width),
    ):
        z = jnp.ones((1, (frames - 1) // 4 + 1, height // 8, width // 8, config.z_dim))
        took = seconds(lambda z=z: list(coder.decode_stream(params, [z])), args.rounds)
        # The work of a latent frame does not change with their number, and so many at once need not fit.
        two, three = (flops(z[:, :n], "decode") for n in (2, 3))
        yield row(f"VAE decode, {height} x {width} x {frames}", took, two + (three - two) * (z.shape[1] - 2))
    video = jnp.zeros((1, 13, args.height, args.width, 3))
    took = seconds(lambda: list(coder.encode_stream(params, [video])), args.rounds)
    yield row("VAE encode, 13 frames", took, flops(video, "encode"))


def random_lora(config):
    """An adapter in the shape of the published cfg_step LoRA."""
    kernels = abstract_params(config, BFLOAT16)["blocks"]
    tree = {}
    for module, layers in ADAPTED.items():
        for name, groups in layers.items():
            depth, inputs, *outputs = kernels[module][name]["kernel"].shape
            arrays = {
                "down": jax.ShapeDtypeStruct((depth, inputs, groups * RANK), jnp.bfloat16),
                "up": jax.ShapeDtypeStruct((depth, groups, RANK, math.prod(outputs) // groups), jnp.bfloat16),
            }
            tree.setdefault(module, {})[name] = random_params(arrays) | {"scale": jnp.full(depth, 0.5, jnp.float32)}
    return lora_collection({"cfg_step": {"blocks": tree}})


def whole_row(args, model):
    """From tokens to pixels: one prompt, 16 distilled steps with the cfg_step LoRA, decoding."""
    text = UMT5Encoder(model.text_encoder, BFLOAT16)
    coder, dit = VAECoder(model.vae, BFLOAT16), DiT(model.dit, BFLOAT16)
    of = {
        name: random_params(abstract_params(getattr(model, name), BFLOAT16)) for name in ("text_encoder", "vae", "dit")
    }
    variables = {"params": of["dit"], "lora": random_lora(model.dit)}
    T, h, w = (args.num_frames - 1) // 4 + 1, args.height // 8, args.width // 8
    encode = jax.jit(lambda p, i, m: text.apply({"params": p}, i, m))
    ids, mask = jnp.ones((1, TEXT), jnp.int32), jnp.ones((1, TEXT), bool)

    def run():
        noise = jax.random.normal(jax.random.key(0), (1, T, h, w, model.dit.in_channels))
        states = TextStates(encode(of["text_encoder"], ids, mask), mask)
        latents = denoise(dit, variables, Conditioning(noise, states, sigmas("distilled", 16)))
        return [np.asarray(piece) for piece in coder.decode_stream(of["vae"], [latents])]

    took = seconds(run, args.rounds)
    flops = 16 * forward_flops(model.dit, Geometry((T, h // 2, w // 2)), TEXT)
    case = f"16 distilled steps, text and decoding included, {args.height} x {args.width} x {args.num_frames}"
    return row(f"{case} (FLOPs: the steps' alone, without LoRA)", took, flops, published_run_s=PUBLISHED_DISTILLED_S)


def measure(part, args):
    """The rows of one part, in this process."""
    model = ARCHITECTURES["longcat-13b"]
    text = dataclasses.replace(model.text_encoder, num_layers=max(1, args.depth // 2))
    model = dataclasses.replace(model, text_encoder=text, dit=dataclasses.replace(model.dit, depth=args.depth))
    rows = {
        "text": lambda: [text_row(args, model.text_encoder)],
        "vae": lambda: vae_rows(args, model.vae),
        "dit": lambda: dit_rows(args, model.dit),
        "whole": lambda: [whole_row(args, model)],
    }
    return [dataclasses.asdict(found) for found in rows[part]()]


def in_a_process(part, args, command):
    """The rows of one part from a process of its own; [] and a line if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        record = pathlib.Path(folder) / "rows.json"
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.device", *command, "--record", str(record), "--parts", part]
        )
        if done.returncode == 0:
            return json.loads(record.read_text())
    print(f"part {part} failed with exit code {done.returncode}; its rows stay as they were", file=sys.stderr)
    return None


def main(command=None, folder=RESULTS):
    command = sys.argv[1:] if command is None else command
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"height": 480, "width": 832, "num-frames": 93, "refined-height": 704, "refined-width": 1280}
    for name, value in {**sizes, "depth": 48, "rounds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--parts", default="text,vae,dit,whole")
    parser.add_argument("--record", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args(command)
    if args.record is not None:
        args.record.write_text(json.dumps(measure(args.parts, args)))
        return
    kept = folder / "device_parts.json"
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for part in args.parts.split(","):
        rows = in_a_process(part, args, command)
        found |= {} if rows is None else {part: rows}
        kept.write_text(json.dumps(found))
    write(
        Result(
            "device",
            f"One {jax.devices()[0].device_kind}",
            over="seconds over those of the least FLOPs at the device's measured rate of a large bfloat16 product",
            rows=[Row(**fields) for rows in found.values() for fields in rows],
            minimum="matrix products and convolutions, nothing twice",
            notes=f"Random bfloat16 weights, {args.depth} blocks. 50_steps_s is the DiT alone; published_run_s are "
            "official whole runs of 480 x 832 x 93 on one H800.",
        ),
        folder,
    )


if __name__ == "__main__":
    main()
