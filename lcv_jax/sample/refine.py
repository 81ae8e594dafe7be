"""Refinement (SPEC 6): a video upsampled to 720p, and to twice its frame rate, encoded, half noised and denoised."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data import buckets, images
from lcv_jax.data.upsample import upsampled
from lcv_jax.data.window import Window, window
from lcv_jax.errors import InputError
from lcv_jax.flow.path import noised
from lcv_jax.flow.schedule import Kind, sigmas
from lcv_jax.parallel.footprint import StepLoad
from lcv_jax.sample import memory
from lcv_jax.sample.denoise import Conditioning
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options, one_of, whole
from lcv_jax.sample.parts import Parts
from lcv_jax.sample.prepare import key_of, noise_of

Array = jax.Array
FACTOR = 64  # what refined sides divide by
T_THRESH = 0.5


@dataclasses.dataclass(frozen=True)
class RefinePlan:
    """What a refinement will compute. count: frames of the result. size: (height, width). shape: of the latents,
    (1, T, h, w, C). sigmas: noise levels, from t_thresh down, with the final 0."""

    count: int
    size: tuple[int, int]
    window: Window
    shape: tuple[int, int, int, int, int]
    sigmas: np.ndarray


def plan(
    opened: Opened,
    video: tuple[int, int, int],
    cond_frames: int,
    options: Options,
    *,
    spatial_only: bool,
    t_thresh: float = T_THRESH,
) -> RefinePlan:
    """video: (F, h, w) of what will be refined. cond_frames: frames of the condition. Raises InputError for what does
    not suit the model."""
    frames, *like = video
    count = frames if spatial_only else 2 * frames
    size = options.pixel_size(tuple(like), FACTOR) if options.size else buckets.nearest(*like, "720p", FACTOR)
    found = window(count, cond_frames, opened.dit.config.latent_multiple)
    factor = opened.coder.config.spatial_factor
    shape = (1, found.latents, size[0] // factor, size[1] // factor, opened.dit.config.in_channels)
    levels = sigmas(Kind.REFINE, options.run_steps, shift=opened.schedule.shift, t_thresh=t_thresh)
    return RefinePlan(count, size, found, shape, levels)


def run_bytes(opened: Opened, plan: RefinePlan, options: Options) -> int:
    """Memory that the refinement needs on a device beside the weights, about."""
    load = StepLoad(plan.shape, passes=1, cached=0, cache_rows=1, text_tokens=options.max_text_tokens)
    mesh, picture = opened.placement.mesh, plan.shape[2:4]
    vae = memory.vae_bytes(opened.coder, mesh, *picture, "decode", "encode")
    return max(memory.step_bytes(opened.dit, load, mesh), vae)


@dataclasses.dataclass(frozen=True)
class RefineRequest:
    """One refinement. video: uint8 (F, h, w, 3). condition: uint8 (cond_frames, h, w, 3) or None. noise: shaped like
    the latents, or None for the seed's."""

    video: np.ndarray
    condition: np.ndarray | None
    plan: RefinePlan
    t_thresh: float
    noise: Any
    options: Options


def request(
    opened: Opened,
    video: Any,
    options: Options,
    *,
    condition: Any = None,
    num_cond_frames: int = 0,
    spatial_only: bool = False,
    t_thresh: float = T_THRESH,
    noise: Any = None,
) -> RefineRequest:
    """Checks everything that can be checked before work begins; raises InputError."""
    frames = images.as_frames(video)
    given = condition_frames(condition, whole("num_cond_frames", num_cond_frames, 0))
    one_of("spatial_only", spatial_only, (False, True))
    if options.latents is not None or options.distilled:
        raise InputError(
            "refine starts from the video, with its own steps: leave out distilled, and give noise for latents"
        )
    cond = 0 if given is None else len(given)
    planned = plan(opened, frames.shape[:3], cond, options, spatial_only=spatial_only, t_thresh=t_thresh)
    if noise is not None and np.shape(noise) != planned.shape:
        raise InputError(f"noise of shape {np.shape(noise)}: expected (B, T, h, w, C) = {planned.shape}")
    memory.check(
        run_bytes(opened, planned, options),
        f"refining {planned.count} frames at {planned.size[0]} x {planned.size[1]}",
        "refine fewer frames at once, a smaller size, or with tiles for the autoencoder",
        opened.placement.mesh,
    )
    return RefineRequest(frames, given, planned, t_thresh, noise, options)


def condition_frames(condition: Any, count: int) -> np.ndarray | None:
    """The last `count` frames of the condition; an image counts as one."""
    if condition is None:
        if count:
            raise InputError(f"num_cond_frames={count} without a condition: give the frames, or 0")
        return None
    frames = images.as_frames(condition)
    if len(frames) == 1 and count in (0, 1):
        return frames
    if not count:
        raise InputError(f"a condition of {len(frames)} frames needs num_cond_frames: how many of its last are meant")
    if len(frames) < count:
        raise InputError(f"the condition has {len(frames)} frames, fewer than num_cond_frames={count}: give more")
    return frames[-count:]


def prepare(parts: Parts, r: RefineRequest, prompt: str) -> Conditioning:
    """The upsampled clip's latents mixed with noise; clean condition latents put in afterwards."""
    (seed,) = r.options.seeds(1)
    planned, posterior = r.plan, r.options.posterior
    padding = planned.window
    clean = _encode(parts, upsampled(r.video, planned.size, planned.count, padding.shown), posterior, seed, 0)
    if r.noise is None:
        noise = noise_of(seed, planned.shape[1:])[None]
    else:
        noise = jnp.array(r.noise, jnp.float32, copy=True)
    latents = noised(clean, noise, r.t_thresh)
    if r.condition is not None:
        pixels = images.to_model(images.resize_lanczos(r.condition, planned.size))
        padded = (pixels[i] for i in padding.shown[: padding.front + padding.cond_frames])
        cond = _encode(parts, padded, posterior, seed, 1)
        latents = jnp.concatenate([cond, latents[:, padding.cond_latents :]], axis=1)
    return Conditioning(
        latents=latents,
        text=parts.encode_prompt(prompt, r.options.max_text_tokens),
        sigmas=planned.sigmas,
        num_cond=padding.cond_latents,
    )


def _encode(parts: Parts, frames: Iterator[np.ndarray], posterior: str, seed: int, part: int) -> Array:
    """Normalised latents of frames that come one by one; part: 0 the clip, 1 the condition."""
    chunks = parts.coder.encode_stream(parts.params["vae"], (frame[None, None] for frame in frames))
    found = jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *chunks)
    if posterior == "mode":
        return parts.normalized(found.mode())
    return parts.normalized(found.sample(jax.random.fold_in(key_of(seed, "posterior"), part)))


def trimmed(frames: np.ndarray, window: Window) -> np.ndarray:
    """Decoded frames (B, F, H, W, 3) without the padding."""
    return frames[:, window.front : window.front + window.frames]
