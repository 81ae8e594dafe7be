"""Runs the encoders: turns a request into a `Conditioning`, which `denoise` takes whatever the task was."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data import images
from lcv_jax.sample.denoise import Conditioning
from lcv_jax.sample.parts import Parts
from lcv_jax.sample.plan import Plan
from lcv_jax.sample.request import Condition, Request

Array = jax.Array
# The seed's key is split by name.
_USES = {"noise": 0, "posterior": 1}


def prepare(parts: Parts, request: Request, plan: Plan) -> Conditioning:
    """Text states, condition latents, their cache if wanted, and initial noise."""
    options, tokens = request.options, request.options.max_text_tokens
    latents = _noise(options.latents, plan)
    cache = None
    if request.condition is not None:
        cond = _encode(parts, request.condition, plan, options.posterior)
        rows = jnp.broadcast_to(cond, (len(latents), *cond.shape[1:]))
        latents = jnp.concatenate([rows, latents[:, plan.num_cond :]], axis=1)
        cache = parts.condition_cache(cond, options.active_loras) if request.condition.cached else None
    return Conditioning(
        latents=latents,
        text=parts.encode_prompt(request.prompts, tokens),
        negative=None if plan.negatives is None else parts.encode_prompt(plan.negatives, tokens),
        guidance=options.run_guidance,
        sigmas=plan.sigmas,
        num_cond=plan.num_cond,
        cache=cache,
    )


def _noise(given: Any, plan: Plan) -> Array:
    """Initial noise (B, T, h, w, C) in float32: a copy of what was given, or each row from its own seed."""
    if given is None:
        return jnp.stack([noise_of(seed, plan.shape[1:]) for seed in plan.seeds])
    return jnp.array(given, jnp.float32, copy=True)


def _encode(parts: Parts, condition: Condition, plan: Plan, posterior: str) -> Array:
    """Normalised latents of the condition (rows, n, h, w, C): of the mode those that differ, else one for each seed."""
    pixels = np.stack([images.to_model(images.resize_lanczos(frames, plan.size)) for frames in condition.frames])
    found = parts.posterior(pixels)
    if posterior == "mode":
        return parts.normalized(found.mode())
    each = [jax.tree.map(lambda x, i=i: x[i : i + 1], found) for i in range(len(pixels))]
    each *= len(plan.seeds) // len(each)
    rows = [one.sample(key_of(seed, "posterior")) for one, seed in zip(each, plan.seeds, strict=True)]
    return parts.normalized(jnp.concatenate(rows))


def noise_of(seed: int, shape: tuple[int, ...]) -> Array:
    """The initial noise of one video, float32."""
    return jax.random.normal(key_of(seed, "noise"), shape, jnp.float32)


def key_of(seed: int, use: str) -> Array:
    """The key of one video's "noise" or "posterior"."""
    return jax.random.fold_in(jax.random.key(seed), _USES[use])
