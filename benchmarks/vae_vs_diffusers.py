"""The autoencoder against diffusers' AutoencoderKLWan: the same random weights and inputs, float32, this CPU.

Both stream at their defaults, the first frame alone and then groups of four, latents one by one. Ours hands its
results over as NumPy arrays, as theirs lie in host memory.

    python -m benchmarks.vae_vs_diffusers            # about six minutes
    python -m benchmarks.vae_vs_diffusers --sizes 9x128x128 --rounds 1
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from diffusers import AutoencoderKLWan
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Result, Row, alternate, ratio, seconds, write
from lcv_jax.checkpoint.load import unflatten
from lcv_jax.checkpoint.table import VAE
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.parallel.hlo import count_flops


def reference(base_dim: int) -> AutoencoderKLWan:
    """diffusers' model with its random initial weights."""
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=base_dim).eval()


def parameters(theirs: AutoencoderKLWan) -> dict:
    """Their weights as our pytree, by the table that reads published checkpoints."""
    places = {name: VAE.locate(name) for name in theirs.state_dict()}
    return unflatten(
        {
            places[name].path: jnp.asarray(places[name].axes.ours(tensor.numpy()))
            for name, tensor in theirs.state_dict().items()
        }
    )


def inputs(config: VAEConfig, frames: int, height: int, width: int) -> dict[str, np.ndarray]:
    """A video and unrelated latents of its size, channels last."""
    rng = np.random.default_rng(0)
    latents = (config.latent_frames(frames), height // config.spatial_factor, width // config.spatial_factor)
    return {
        "encode": rng.uniform(-1, 1, (1, frames, height, width, config.in_channels)).astype(np.float32),
        "decode": rng.standard_normal((1, *latents, config.z_dim)).astype(np.float32),
    }


def runs(method: str, x: np.ndarray, coder: VAECoder, params: dict, theirs: AutoencoderKLWan) -> dict:
    """Both candidates, of the same result: posterior mean or pixels, channels last."""
    official = torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))

    def ours() -> np.ndarray:
        if method == "encode":
            pieces = [posterior.mean for posterior in coder.encode_stream(params, [x])]
        else:
            pieces = list(coder.decode_stream(params, [x]))
        return np.concatenate([np.asarray(piece) for piece in pieces], axis=1)

    @torch.inference_mode()
    def diffusers() -> np.ndarray:
        if method == "encode":
            return np.moveaxis(theirs.encode(official).latent_dist.mean.numpy(), 1, -1)
        return np.moveaxis(theirs.decode(official).sample.numpy(), 1, -1)

    return {"ours": ours, "diffusers": diffusers}


def measure(method: str, x: np.ndarray, coder: VAECoder, params: dict, theirs: AutoencoderKLWan, rounds: int) -> Row:
    candidates = runs(method, x, coder, params, theirs)
    with FlopCounterMode(display=False) as counter:
        expected = candidates["diffusers"]()
    difference = float(np.abs(candidates["ours"]() - expected).max())
    if difference > 1e-3:
        raise SystemExit(f"outputs differ by {difference:.2g}: nothing to time")
    times = alternate(candidates, rounds=rounds)
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    least = count_flops(jax.jit(getattr(coder, method)).lower(params, shape).compile()).total
    done = counter.get_total_flops()
    figures = seconds(times) | {
        "least_TFLOP": least / 1e12,
        "diffusers_TFLOP": done / 1e12,
        "ours_TFLOP_per_s_of_least": least / 1e12 / seconds(times)["ours_s"],
        "max_difference": difference,
    }
    _, T, H, W, _ = x.shape
    what = f"{T} frames of {H} x {W}" if method == "encode" else f"{T} latents of {H} x {W}"
    return Row(f"{method} {what}", ratio(times, "ours", "diffusers"), least / done, goal=1.0, figures=figures)


def main(sizes: tuple[str, ...] = ("9x128x128", "9x240x416"), base_dim: int = 96, rounds: int = 3) -> None:
    """sizes: videos as FRAMESxHEIGHTxWIDTH. base_dim: 96 is the published width. rounds: alternating rounds, of
    which the median counts."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    theirs = reference(base_dim)
    coder = VAECoder(VAEConfig.from_json(theirs.config), FLOAT32)
    params = parameters(theirs)
    rows = []
    for size in sizes:
        for method, x in inputs(coder.config, *map(int, size.split("x"))).items():
            rows.append(measure(method, x, coder, params, theirs, rounds))
    write(
        Result(
            "vae_vs_diffusers",
            "Wan autoencoder against diffusers",
            over="ours / diffusers, seconds of streamed coding, compilation not counted",
            rows=rows,
            minimum="products that are neither with zeros nor of repeated pixels, over those that diffusers does",
            notes=f"Random weights, base_dim {base_dim}, float32, {torch.get_num_threads()} threads each.",
        )
    )


if __name__ == "__main__":
    tyro.cli(main)
