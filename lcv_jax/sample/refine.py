"""Refinement (SPEC 6): a video upsampled to 720p, and to twice its frame rate, encoded, half noised and denoised.

The refined clip is padded by repeating its edge frames, so that condition latents and the others are each multiples of
what block sparse attention needs; the padding is cut off again after decoding.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data import buckets, images
from lcv_jax.data.upsample import upsampled
from lcv_jax.errors import InputError
from lcv_jax.flow.path import noised
from lcv_jax.flow.schedule import Kind, sigmas
from lcv_jax.sample import memory
from lcv_jax.sample.denoise import Conditioning
from lcv_jax.sample.options import Options, whole
from lcv_jax.sample.parts import Parts
from lcv_jax.sample.prepare import key_of, noise_of

Array = jax.Array
FACTOR = 64  # what refined sides divide by
FPS = 30
SPATIAL_FPS = 15


@dataclasses.dataclass(frozen=True)
class Window:
    """How a refined clip is padded. frames: of the result. cond_frames: of them in the condition, at the front.
    front, back: repeated edge frames. cond_latents, latents: latent frames in the condition, and in all."""

    frames: int
    cond_frames: int
    front: int
    back: int
    cond_latents: int
    latents: int

    @property
    def places(self) -> range:
        """Frames of the padded clip by their place in the result, before 0 and from `frames` on repeated edges."""
        return range(-self.front, self.frames + self.back)


def window(frames: int, cond_frames: int, multiple: int = 4) -> Window:
    """The padding of a clip of `frames`, of which the first cond_frames are given. multiple: of both latent counts.

    Without condition the official code pads to 4 m frames, of which its encoder reads 4 m - 3, and may return up to 3
    frames too few; here there are always enough.
    """
    if not 0 <= cond_frames < frames:
        raise InputError(
            f"num_cond_frames={cond_frames} of {frames} refined frames: expected fewer, so that something is refined"
        )
    if not cond_frames:
        latents = _up(math.ceil((frames + 3) / 4), multiple)
        return Window(frames, 0, 0, 4 * latents - 3 - frames, 0, latents)
    cond = _up(1 + math.ceil((cond_frames - 1) / 4), multiple)
    rest = _up(math.ceil((frames - cond_frames) / 4), multiple)
    front, back = 4 * cond - 3 - cond_frames, 4 * rest - (frames - cond_frames)
    return Window(frames, cond_frames, front, back, cond, cond + rest)


def _up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple


@dataclasses.dataclass(frozen=True)
class RefineRequest:
    """One refinement. video: uint8 (F, h, w, 3). condition: uint8 (cond_frames, h, w, 3) or None. count: frames of the
    result. size: (height, width). noise: (1, T, h, w, C) or None."""

    video: np.ndarray
    condition: np.ndarray | None
    count: int
    size: tuple[int, int]
    window: Window
    t_thresh: float
    noise: Any
    options: Options


def request(
    parts: Parts,
    video: Any,
    options: Options,
    *,
    condition: Any,
    num_cond_frames: int,
    spatial_only: bool,
    t_thresh: float,
    noise: Any,
) -> RefineRequest:
    """Checks everything that can be checked before work begins; raises InputError."""
    frames = images.as_frames(video)
    count = len(frames) if spatial_only else 2 * len(frames)
    given = _condition(condition, whole("num_cond_frames", num_cond_frames, 0))
    sigmas(Kind.REFINE, options.run_steps, shift=parts.opened.schedule.shift, t_thresh=t_thresh)
    if options.size is None:
        size = buckets.nearest(*frames.shape[1:3], "720p", FACTOR)
    else:
        size = options.pixel_size(frames.shape[1:3], FACTOR)
    found = window(count, 0 if given is None else len(given), _latent_multiple(parts))
    shape = _latent_shape(parts, size, found)
    if noise is not None and np.shape(noise) != shape:
        raise InputError(f"noise of shape {np.shape(noise)}: expected (B, T, h, w, C) = {shape}")
    load = memory.StepLoad(shape, passes=1, cached=0, cache_rows=1, text_tokens=options.max_text_tokens)
    memory.check(
        max(memory.step_bytes(parts.dit, load), memory.vae_bytes(parts.coder, *shape[2:4])),
        f"refining {count} frames at {size[0]} x {size[1]}",
        "refine fewer frames at once, a smaller size, or with tiles for the autoencoder",
    )
    return RefineRequest(frames, given, count, size, found, t_thresh, noise, options)


def _condition(condition: Any, count: int) -> np.ndarray | None:
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


def _latent_multiple(parts: Parts) -> int:
    """What counts of latent frames divide by: the time sides of the published blocks."""
    bsa = parts.dit.config.bsa_params
    return 1 if bsa is None else math.lcm(bsa.chunk_3d_shape_q[0], bsa.chunk_3d_shape_k[0])


def _latent_shape(parts: Parts, size: tuple[int, int], window: Window) -> tuple[int, int, int, int, int]:
    factor = parts.coder.config.spatial_factor
    return 1, window.latents, size[0] // factor, size[1] // factor, parts.dit.config.in_channels


def prepare(parts: Parts, r: RefineRequest, prompt: str) -> Conditioning:
    """The upsampled clip's latents mixed with noise; clean condition latents put in afterwards."""
    (seed,) = r.options.seeds(1)
    edge = r.count - 1
    places = [min(max(place, 0), edge) for place in r.window.places]
    clean = _encode(parts, upsampled(r.video, r.size, r.count, places), r.options.posterior, seed, 0)
    shape = _latent_shape(parts, r.size, r.window)
    noise = noise_of(seed, shape[1:])[None] if r.noise is None else jnp.array(r.noise, jnp.float32, copy=True)
    latents = noised(clean, noise, r.t_thresh)
    if r.condition is not None:
        pixels = images.to_model(images.resize_lanczos(r.condition, r.size))
        padded = [pixels[max(place, 0)] for place in range(-r.window.front, len(pixels))]
        cond = _encode(parts, iter(padded), r.options.posterior, seed, 1)
        latents = jnp.concatenate([cond, latents[:, r.window.cond_latents :]], axis=1)
    return Conditioning(
        latents=latents,
        text=parts.encode_prompt(prompt, r.options.max_text_tokens),
        sigmas=sigmas(Kind.REFINE, r.options.run_steps, shift=parts.opened.schedule.shift, t_thresh=r.t_thresh),
        num_cond=r.window.cond_latents,
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
