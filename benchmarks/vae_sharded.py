"""The autoencoder over eight devices: error of the exact cut and of tiles, bytes sent, memory of a device.

    python -m benchmarks.vae_sharded                  # about four minutes, on eight virtual devices of this CPU
    python -m benchmarks.vae_sharded --side 64 --sizes 64x96 --base-dim 8      # a look at it

Two results. vae_sharded_error: the golden checkpoint's autoencoder (random weights, an eighth of the published width)
on a square picture, cut over the devices and in tiles on one. vae_sharded_cost: one step of the published
autoencoder's streams, compiled ahead of time and not run: a later latent frame, four pixel frames.
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from benchmarks.common import RESULTS, Result, Row, write
from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import VAE
from lcv_jax.models.precision import BFLOAT16, FLOAT32, Precision
from lcv_jax.models.vae_coding import Cut, Tiling, VAECoder, uncut
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.models.zoo import ARCHITECTURES, abstract_params
from lcv_jax.parallel.halo import Halo
from lcv_jax.parallel.hlo_collectives import read_collectives, sent_by_kind
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.video_cut import VideoCut

CHECKPOINT = pathlib.Path(__file__).parents[1] / "tests" / "goldens" / "checkpoint" / "vae"
DEVICES = 8
MIB = 2**20
TILES = (Tiling(128, 64), Tiling(96, 48), Tiling(64, 32))


def error_rows(side: int) -> Iterator[Row]:
    """Decoded pixels and encoded means of each candidate against one device, in float32 and bfloat16."""
    config = VAEConfig.from_json(json.loads((CHECKPOINT / "config.json").read_text()))
    rng = np.random.default_rng(0)
    latents = side // config.spatial_factor
    z = rng.standard_normal((1, 2, latents, latents, config.z_dim)).astype(np.float32)
    video = np.tanh(rng.standard_normal((1, 5, side, side, 3))).astype(np.float32)
    mesh = MeshConfig(context=DEVICES).make()
    exact = {}
    for precision, name in ((FLOAT32, "float32"), (BFLOAT16, "bfloat16")):
        params = load_params(SafetensorsSource(CHECKPOINT), VAE, abstract_params(config, precision))

        def run(method: str, coder: VAECoder, params=params) -> np.ndarray:
            return np.asarray(coder.decode(params, z) if method == "decode" else coder.encode(params, video).mean)

        for method in ("decode", "encode"):
            one = run(method, VAECoder(config, precision))
            exact.setdefault(method, one)
            cut = run(method, VAECoder(config, precision, cut=VideoCut(mesh)))
            yield error_row(f"{method}, {name}, cut over {DEVICES} devices", cut, one)
            if precision is BFLOAT16:
                yield error_row(f"{method}, {name} against float32, one device", one, exact[method])
                continue
            for tiling in TILES:
                if tiling.size < side:
                    tiled = run(method, VAECoder(config, precision, tiling))
                    yield error_row(f"{method}, {name}, tiles of {tiling.size} by {tiling.overlap}", tiled, one)


def error_row(case: str, ours: np.ndarray, reference: np.ndarray) -> Row:
    difference = np.abs(ours - reference)
    figures = {"largest_difference": float(difference.max()), "largest_value": float(np.abs(reference).max())}
    return Row(case, float(difference.mean() / reference.std()), minimum=0.0, figures=figures)


def convolution_inputs(config: VAEConfig, method: str) -> Iterator[tuple[int, int, int, int]]:
    """What every spatial convolution reads for one later latent frame: (frames, pixels per latent along a side,
    channels, rows beyond a piece's two edges together)."""
    frames, pixels = (1, 1) if method == "decode" else (config.temporal_factor, config.spatial_factor)
    widths = [config.base_dim * multiplier for multiplier in config.dim_mult]
    middle = [(1, 1, config.top_dim, 2)] * 4
    if method == "decode":
        yield 1, 1, config.z_dim, 2
        yield from middle
        widths, resamplers, blocks = widths[::-1], config.temporal_downsample[::-1], config.num_res_blocks + 1
    else:
        yield frames, pixels, config.in_channels, 2
        resamplers, blocks = config.temporal_downsample, config.num_res_blocks
    channels = widths[0]
    for width, temporal in zip(widths, (*resamplers, None), strict=True):
        yield frames, pixels, channels, 2
        yield from [(frames, pixels, width, 2)] * (2 * blocks - 1)
        channels = width
        if temporal is None:
            continue
        factor = 2 if temporal else 1
        if method == "decode":
            frames *= factor
            yield frames, pixels, width, 2
            pixels, channels = 2 * pixels, width // 2
        else:
            yield frames, pixels, width, 1
            frames, pixels = frames // factor, pixels // 2
    if method == "encode":
        yield from middle
    yield frames, pixels, channels, 2


def least_bytes(config: VAEConfig, method: str, halo: Halo, h: int, w: int, after: int) -> int:
    """Bytes of float32 that a device in the middle of the picture must fetch if it is to compute its piece and no more:
    the rows beside it of every convolution's input. Corners are not counted. after: how many latent frames of the video
    follow its first; none is one later latent frame alone."""
    high, wide = (pieces.size if pieces else extent for pieces, extent in ((halo.rows, h), (halo.columns, w)))
    border = sum(length for pieces, length in ((halo.rows, wide), (halo.columns, high)) if pieces)
    inputs = convolution_inputs(config, method)
    return 4 * border * sum((after * f + 1 if after else f) * p * c * rows for f, p, c, rows in inputs)


def compiled_step(config: VAEConfig, precision: Precision, method: str, cut: Cut, h: int, w: int):
    """A later step of a stream, compiled for shapes only, and the state it carries."""
    frames, side = (1, 1) if method == "decode" else (config.temporal_factor, config.spatial_factor)
    channels = config.z_dim if method == "decode" else config.in_channels
    params = abstract_params(config, precision)
    model = VAECoder(config, precision).model
    step = jax.jit(functools.partial(cut.step, model, method), donate_argnums=1)
    first, later = (jax.ShapeDtypeStruct((1, n, h * side, w * side, channels), jnp.float32) for n in (1, frames))
    _, state = jax.eval_shape(step, params, None, first)
    return step.lower(params, state, later).compile(), state


def cost_row(config: VAEConfig, method: str, h: int, w: int) -> Row:
    """Bytes that a device sends to its neighbours over the least; its memory beside one device's."""
    cut = VideoCut(MeshConfig(context=DEVICES).make())
    precision = FLOAT32  # a CPU compiles bfloat16 as float32 with conversions: half of everything on an accelerator
    one, whole_state = compiled_step(config, precision, method, uncut, h, w)
    many, state = compiled_step(config, precision, method, cut, h, w)
    factor = config.spatial_factor if method == "encode" else 1
    halo = cut.halo(config, method, 1, (1, 1, h * factor, w * factor))
    sent = sent_by_kind(read_collectives(many))
    least = least_bytes(config, method, halo, h, w, after=0)
    figures = {
        "sent_MiB": sent["collective-permute"] / MIB,
        "least_MiB": least / MIB,
        "gathered_MiB": sent["all-gather"] / MIB,
        "exchanges": sum(c.times for c in read_collectives(many) if c.kind == "collective-permute"),
        "temporaries_MiB": many.memory_analysis().temp_size_in_bytes / MIB,
        "temporaries_one_device_MiB": one.memory_analysis().temp_size_in_bytes / MIB,
        "state_MiB": state_bytes(state) / DEVICES / MIB,
        "state_one_device_MiB": state_bytes(whole_state) / MIB,
    }
    case = f"{method} {h * config.spatial_factor} x {w * config.spatial_factor} over {pieces(halo)}"
    return Row(case, sent["collective-permute"] / least, minimum=1.0, goal=1.02, figures=figures)


def pieces(halo: Halo) -> str:
    named = ((halo.rows, "rows"), (halo.columns, "columns"), (halo.frames, "segments of time"))
    return " x ".join(f"{cut.parts} {name}" for cut, name in named if cut)


def whole_rows(config: VAEConfig, T: int, h: int, w: int) -> Iterator[Row]:
    """A video decoded at once, cut in space and cut in time; both over the least of the cut in space."""
    mesh = MeshConfig(context=DEVICES).make()
    model, params = VAECoder(config, FLOAT32).model, abstract_params(config, FLOAT32)
    z = jax.ShapeDtypeStruct((1, T, h, w, config.z_dim), jnp.float32)
    cuts = VideoCut(mesh), VideoCut(mesh, space=(), frames=("context",))
    least = least_bytes(config, "decode", cuts[0].halo(config, "decode", T, z.shape), h, w, after=T - 1)
    for cut in cuts:
        program = jax.jit(functools.partial(cut.whole, model, "decode")).lower(params, z).compile()
        sent = sent_by_kind(read_collectives(program))
        figures = {
            "sent_MiB": sent["collective-permute"] / MIB,
            "least_MiB": least / MIB,
            "gathered_MiB": sent.get("all-gather", 0) / MIB,
            "exchanges": sum(c.times for c in read_collectives(program) if c.kind == "collective-permute"),
            "temporaries_MiB": program.memory_analysis().temp_size_in_bytes / MIB,
        }
        frames = config.temporal_factor * (T - 1) + 1
        case = f"decode {frames} frames at once over {pieces(cut.halo(config, 'decode', T, z.shape))}"
        yield Row(case, sent["collective-permute"] / least, minimum=1.0, figures=figures)


def state_bytes(state) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def main(
    side: int = 192,
    sizes: tuple[str, ...] = ("480x832", "704x1280"),
    base_dim: int = 96,
    latent_frames: int = 24,
    results: pathlib.Path = RESULTS,
) -> None:
    """side: of the picture whose errors are measured. sizes: HEIGHTxWIDTH of the pictures whose step is compiled.
    latent_frames: of the video of the first size that is compiled whole. base_dim: 96 is the published width."""
    jax.config.update("jax_num_cpu_devices", DEVICES)
    write(
        Result(
            "vae_sharded_error",
            "Error of the autoencoder over eight devices and in tiles",
            over="mean absolute difference over the standard deviation of one device's numbers",
            rows=tuple(error_rows(side)),
            minimum="exact",
            notes=f"{side} x {side} pixels, two latent frames, random weights and inputs, base_dim 12. In bfloat16 "
            "another order of the float32 sums moves the numbers about as much as bfloat16 moves them from float32.",
        ),
        results,
    )
    config = dataclasses.replace(ARCHITECTURES["longcat-13b"].vae, base_dim=base_dim)
    pictures = [tuple(int(n) // config.spatial_factor for n in size.split("x")) for size in sizes]
    rows = [cost_row(config, method, h, w) for h, w in pictures for method in ("decode", "encode")]
    rows += whole_rows(config, latent_frames, *pictures[0])
    write(
        Result(
            "vae_sharded_cost",
            "Cost of the autoencoder over eight devices",
            over="bytes that a device sends its neighbours / the least",
            rows=rows,
            minimum="one row of pixels on each side that a convolution looks to, of its input, once",
            notes=f"base_dim {base_dim}, float32. Of streams one later latent frame, {config.temporal_factor} pixel "
            "frames; the last two rows decode a whole video. Gathered are keys and values of the middle, and the "
            "output where its frames do not divide.",
        ),
        results,
    )


if __name__ == "__main__":
    tyro.cli(main)
