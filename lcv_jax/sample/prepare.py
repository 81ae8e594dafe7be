"""What differs between the tasks: each turns its inputs into a `Conditioning`, which `denoise` then runs."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data import images
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import Kind, sigmas
from lcv_jax.sample import memory
from lcv_jax.sample.denoise import Conditioning
from lcv_jax.sample.options import SIZE, Options

if TYPE_CHECKING:
    from lcv_jax.sample.pipeline import Pipeline

Array = jax.Array
# The seed's key is split by name.
_NOISE, _POSTERIOR = 0, 1


@dataclasses.dataclass(frozen=True)
class Condition:
    """Pixels that a video starts with. video: (1, F, H, W, 3) float32 in [-1, 1], F = 4n + 1. cached: whether their
    keys and values are computed once instead of at every step."""

    video: np.ndarray
    cached: bool


def text_to_video(pipe: "Pipeline", prompts: Sequence[str], options: Options) -> Conditioning:
    """Noise and text only."""
    size = options.pixel_size(SIZE, pipe.pixel_multiple)
    return _conditioning(pipe, prompts, options, size, _kind(options, enhance_hf=False), None)


def image_to_video(pipe: "Pipeline", prompts: Sequence[str], options: Options, image: Any) -> Conditioning:
    """The first latent is the image's. image: PIL image or uint8 (H, W, 3)."""
    frames = images.as_frames(image)
    if len(frames) != 1:
        raise InputError(f"{len(frames)} frames given as an image: expected one picture")
    size = options.pixel_size(frames.shape[1:3], pipe.pixel_multiple)
    pixels = images.to_model(images.resize_lanczos(frames, size))
    # Officially without a cache: its frame then takes part in the guidance projection.
    condition = Condition(pixels[None], cached=False)
    return _conditioning(pipe, prompts, options, size, _kind(options, enhance_hf=False), condition)


def continuation(
    pipe: "Pipeline",
    prompts: Sequence[str],
    options: Options,
    video: Any,
    *,
    num_cond_frames: int,
    kv_cache: bool,
    enhance_hf: bool | None,
) -> Conditioning:
    """The last num_cond_frames of the input, encoded, stand in front. video: PIL images or uint8 (F, H, W, 3)."""
    frames = images.as_frames(video)
    pipe.vae.config.latent_frames(num_cond_frames)  # raises unless 4n + 1
    if len(frames) < num_cond_frames:
        raise InputError(
            f"the video has {len(frames)} frames, fewer than num_cond_frames={num_cond_frames}: "
            "give a longer video or a smaller number, 4n + 1"
        )
    if enhance_hf and options.distilled:
        raise InputError("enhance_hf cannot be combined with the distilled schedule: leave one of them out")
    size = options.pixel_size(frames.shape[1:3], pipe.pixel_multiple)
    pixels = images.to_model(images.resize_lanczos(frames[-num_cond_frames:], size))
    condition = Condition(pixels[None], cached=kv_cache)
    kind = _kind(options, enhance_hf=not options.distilled if enhance_hf is None else enhance_hf)
    return _conditioning(pipe, prompts, options, size, kind, condition)


def _kind(options: Options, *, enhance_hf: bool) -> Kind:
    if options.distilled:
        return Kind.DISTILLED
    return Kind.ENHANCE_HF if enhance_hf else Kind.BASE


def _conditioning(
    pipe: "Pipeline",
    prompts: Sequence[str],
    options: Options,
    size: tuple[int, int],
    kind: Kind,
    condition: Condition | None,
) -> Conditioning:
    vae, B = pipe.vae.config, len(prompts)
    shape = (
        B,
        vae.latent_frames(options.frame_count()),
        size[0] // vae.spatial_factor,
        size[1] // vae.spatial_factor,
        pipe.dit.config.in_channels,
    )
    num_cond = 0 if condition is None else vae.latent_frames(condition.video.shape[1])
    if num_cond >= shape[1]:
        raise InputError(
            f"num_frames={options.num_frames} leaves nothing to generate after {condition.video.shape[1]} condition "
            "frames: ask for more frames"
        )
    levels = sigmas(kind, options.run_steps, shift=pipe.schedule.shift)
    guided = options.run_guidance > 1
    negatives = options.negative_prompts(B)
    seeds = options.seeds(B)
    memory.check_sampling(pipe.dit, pipe.vae, shape, num_cond, guided, options.max_text_tokens)

    latents = _noise(options.latents, shape, seeds)
    cache = None
    if condition is not None:
        cond = _sample_posterior(pipe, condition.video, options.posterior, seeds)
        latents = jnp.concatenate([jnp.broadcast_to(cond, (B, *cond.shape[1:])), latents[:, num_cond:]], axis=1)
        cache = pipe.condition_cache(cond, loras=options.active_loras) if condition.cached else None
    return Conditioning(
        latents=latents,
        text=pipe.encode_prompt(prompts, options.max_text_tokens),
        negative=pipe.encode_prompt(negatives, options.max_text_tokens) if guided else None,
        guidance=options.run_guidance,
        sigmas=levels,
        num_cond=num_cond,
        cache=cache,
    )


def _noise(given: Any, shape: tuple[int, ...], seeds: Sequence[int]) -> Array:
    """Initial noise in float32: a copy of what was given, or each row from its own seed."""
    if given is None:
        return jnp.stack([jax.random.normal(_key(seed, _NOISE), shape[1:], jnp.float32) for seed in seeds])
    if np.shape(given) != shape:
        raise InputError(f"latents of shape {np.shape(given)}: expected (B, T, h, w, C) = {shape}")
    return jnp.array(given, jnp.float32, copy=True)


def _sample_posterior(pipe: "Pipeline", video: np.ndarray, posterior: str, seeds: Sequence[int]) -> Array:
    """Normalised latents of the condition: (1, n, h, w, C) for the mode, one row for each seed otherwise."""
    found = pipe.posterior(video)
    if posterior == "mode":
        return pipe.normalized(found.mode())
    rows = [found.sample(_key(seed, _POSTERIOR)) for seed in seeds]
    return pipe.normalized(jnp.concatenate(rows))


def _key(seed: int, use: int) -> Array:
    return jax.random.fold_in(jax.random.key(seed), use)
