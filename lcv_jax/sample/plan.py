"""What a run will compute, worked out from configs and options alone, so that bad ones are refused at once."""

import dataclasses

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import sigmas
from lcv_jax.parallel.footprint import StepLoad
from lcv_jax.sample import memory
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.request import Request


@dataclasses.dataclass(frozen=True)
class Plan:
    """size: (height, width) in pixels. shape: of the latents, (B, T, h, w, C). num_cond: how many of the T are
    condition. sigmas: noise levels with the final 0. negatives: B negative prompts, None for no guidance. seeds: B."""

    size: tuple[int, int]
    shape: tuple[int, int, int, int, int]
    num_cond: int
    sigmas: np.ndarray
    negatives: tuple[str, ...] | None
    seeds: tuple[int, ...]


def plan(opened: Opened, request: Request) -> Plan:
    """Raises InputError for sizes, frames, steps, seeds and noise that do not suit the model or one another."""
    options, vae, B = request.options, opened.coder.config, len(request.prompts)
    size = options.pixel_size(request.like, opened.pixel_multiple)
    frames = 0 if request.condition is None else request.condition.length
    num_cond = vae.latent_frames(frames) if frames else 0  # raises unless 4n + 1
    height, width = (side // vae.spatial_factor for side in size)
    shape = (B, vae.latent_frames(options.num_frames), height, width, opened.dit.config.in_channels)
    if num_cond >= shape[1]:
        raise InputError(
            f"num_frames={options.num_frames} leaves nothing to generate after {frames} condition frames: "
            "ask for more frames"
        )
    if options.latents is not None and np.shape(options.latents) != shape:
        raise InputError(f"latents of shape {np.shape(options.latents)}: expected (B, T, h, w, C) = {shape}")
    if options.latents is not None and not np.isfinite(options.latents).all():
        raise InputError("latents hold NaN or infinity: expected normal noise")
    negatives = options.negative_prompts(B)
    return Plan(
        size=size,
        shape=shape,
        num_cond=num_cond,
        sigmas=sigmas(request.kind, options.run_steps, shift=opened.schedule.shift),
        negatives=negatives if options.run_guidance > 1 else None,
        seeds=options.seeds(B),
    )


def run_bytes(opened: Opened, request: Request, plan: Plan) -> int:
    """Memory that the run needs on a device beside the weights, about."""
    B, T, h, w, C = plan.shape
    cached = request.condition is not None and request.condition.cached
    load = StepLoad(
        latents=(B, T - plan.num_cond if cached else T, h, w, C),
        passes=1 if plan.negatives is None else 2,
        cached=plan.num_cond if cached else 0,
        cache_rows=request.condition.rows(B, request.options.posterior) if cached else 1,
        text_tokens=request.options.max_text_tokens,
        # One at work and others on their way; the compiler for TPUs takes the room of 3.4, whatever the depth.
        cache_layers=4 if "kv_cache" in opened.offload else None,
    )
    mesh, methods = opened.placement.mesh, ("decode", "encode") if plan.num_cond else ("decode",)
    return max(memory.step_bytes(opened.dit, load, mesh), memory.vae_bytes(opened.coder, mesh, h, w, *methods))


def check_memory(opened: Opened, request: Request, plan: Plan) -> None:
    """Raises InputError if the run does not fit beside what is on the device now."""
    B, T = plan.shape[:2]
    memory.check(
        run_bytes(opened, request, plan),
        f"sampling {B} x {T} latent frames at {plan.size[0]} x {plan.size[1]}",
        "choose a smaller size, fewer frames, fewer prompts at once, or tiles for the autoencoder",
        opened.placement.mesh,
    )
