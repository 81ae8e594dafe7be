"""Weight-only int8 and fp8: how far the DiT's velocity and each kind of layer are from float32, beside bfloat16.

    python -m benchmarks.quantised                                  # the small golden checkpoint
    python -m benchmarks.quantised --checkpoint DIR --size 480 832

An error is the root mean square of the difference over that of the float32 value. Layers are those of the first block,
on inputs of unit normal noise; a wide layer of normal weights tells what widths like the published ones give.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Result, Row, write
from lcv_jax import Pipeline
from lcv_jax.checkpoint.load import flatten
from lcv_jax.models import zoo
from lcv_jax.models.precision import BFLOAT16
from lcv_jax.models.quantised import Quantisation
from lcv_jax.parallel.footprint import tree_bytes

NAMES = ("int8", "fp8")
WIDE = 4096
F32 = jnp.float32


def error(value, exact):
    """Relative root mean square of the difference."""
    value, exact = np.asarray(value, np.float64), np.asarray(exact, np.float64)
    return float(np.sqrt(np.square(value - exact).mean() / np.square(exact).mean()))


def memory():
    """Bytes of the published DiT and text encoder, eight bits over bfloat16."""
    published = zoo.ARCHITECTURES["longcat-13b"]
    plain = {name: zoo.abstract_params(getattr(published, name), BFLOAT16) for name in ("dit", "text_encoder")}
    for name, abstract in plain.items():
        ours, theirs = tree_bytes(Quantisation.named("int8").abstract(abstract)), tree_bytes(abstract)
        figures = {"bytes": ours, "bfloat16_bytes": theirs}
        yield Row(f"bytes of longcat-13b's {name}, int8 or fp8", ours / theirs, minimum=0.5, figures=figures)


def velocity(checkpoint, size, frames):
    """The whole DiT on noise and a prompt, everything but the weights in float32, and in bfloat16."""
    noise, text, exact = None, None, None
    errors = {}
    cases = [("float32", None), ("bfloat16", None), *(("float32", n) for n in NAMES), *(("bfloat16", n) for n in NAMES)]
    for dtype, weights in cases:
        pipe = Pipeline.from_pretrained(checkpoint, dtype, weights=weights)
        if exact is None:
            h, w = (side // pipe.coder.config.spatial_factor for side in size)
            shape = (1, pipe.coder.config.latent_frames(frames), h, w, pipe.dit.config.in_channels)
            noise, text = jax.random.normal(jax.random.key(0), shape), pipe.encode_prompt("a cat")
        found = np.asarray(pipe.velocity(noise, jnp.full(shape[:2], 0.5), text))
        if exact is None:
            exact = found
        else:
            errors[dtype, weights] = error(found, exact)
    for (dtype, weights), found in errors.items():
        case = f"velocity, {weights or dtype} weights, computed in {dtype}"
        yield Row(case, found / errors["bfloat16", None], figures={"error": found})


def layers(checkpoint):
    """A layer's outputs, per kind, computed in float32."""
    kernels = flatten(Pipeline.from_pretrained(checkpoint, "float32").params["dit"])
    kinds = {path: leaf[0] for path, leaf in kernels.items() if Quantisation.named("int8").takes(path)}
    kinds[f"normal weights, {WIDE} x {WIDE}"] = jax.random.normal(jax.random.key(1), (WIDE, WIDE)) / np.sqrt(WIDE)
    for path, kernel in kinds.items():
        x = jax.random.normal(jax.random.key(2), (256, len(kernel)))
        exact = product(x, kernel)
        rounded = error(product(x, kernel.astype(jnp.bfloat16).astype(F32)), exact)
        for name in NAMES:
            q, scale = Quantisation.named(name)(kernel)
            found = error(product(x, q.astype(F32) * scale), exact)
            yield Row(f"{name}, {path.removesuffix('/kernel')}", found / rounded, figures={"error": found})


def product(x, kernel):
    return jnp.tensordot(x, kernel, axes=1, precision="highest")


def main(argv=None, results=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tests/goldens/checkpoint")
    parser.add_argument("--size", type=int, nargs=2, default=(64, 96), help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=9)
    args = parser.parse_args(argv)
    rows = (*memory(), *velocity(args.checkpoint, args.size, args.frames), *layers(args.checkpoint))
    write(
        Result(
            "quantised",
            "Eight-bit weights",
            over="the error over that of bfloat16 weights on the same inputs (velocity: that of bfloat16 throughout); "
            "bytes over bfloat16's",
            rows=rows,
            minimum="half the bytes, were every parameter quantised",
            notes="Golden weights are random. Bytes by arithmetic from the published config.",
        ),
        **({} if results is None else {"folder": results}),
    )


if __name__ == "__main__":
    main()
