"""The one sampling loop, for every task: a Python loop over one jitted step, so that progress, previews and
cancelling are possible."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.flow.guidance import cfg_zero
from lcv_jax.flow.solver import euler_step
from lcv_jax.models.dit import DiT, KVCache
from lcv_jax.models.umt5 import TextStates

Array = jax.Array
LATENTS = ("batch", None, None, None, None)  # the logical axes of (B, T, h, w, C)


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """All that `denoise` needs to know of a task.

    latents: (B, T, h, w, C) float32, clean condition frames in front, then the initial noise. num_cond: how many are
    condition frames. cache: their keys and values; without it they run through the network at every step.
    text: of the B prompts; negative: of the B negative prompts, None for no guidance. guidance: CFG-zero* scale.
    sigmas: noise levels with the final 0 (flow/schedule.py).
    """

    latents: Array
    text: TextStates
    sigmas: np.ndarray
    num_cond: int = 0
    cache: KVCache | None = None
    negative: TextStates | None = None
    guidance: float = 1.0


@dataclasses.dataclass(frozen=True)
class Step:
    """What `denoise` tells after each step. index: from 0. latents: (B, T', h, w, C), the frames that are being
    denoised, valid until the next step. seconds: of this step, the first one's with compilation."""

    index: int
    total: int
    latents: Array
    seconds: float


def denoise(
    model: DiT,
    variables: Mapping[str, Any],
    conditioning: Conditioning,
    on_step: Callable[[Step], None] | None = None,
) -> Array:
    """Latents (B, T, h, w, C) in float32, condition frames included and as they were.

    variables: {"params": ..., "lora": active adapters}. on_step: called after every step; what it raises ends the run.
    """
    c = conditioning
    cond = c.latents[:, : c.num_cond]
    in_front = c.num_cond if c.cache is None else 0
    place = model.placement.put
    # A copy, because each step donates its latents; where a step leaves them, because latents that came from elsewhere
    # would compile the step a second time.
    x = jnp.copy(place(c.latents if c.cache is None else c.latents[:, c.num_cond :], LATENTS))
    text = c.text if c.negative is None else with_negative(c.negative, c.text)
    text = TextStates(place(text.states, ("batch", None, None)), place(text.mask, ("batch", None)))
    guidance = None if c.negative is None else np.float32(c.guidance)
    total = len(c.sigmas) - 1
    for i in range(total):
        start = time.perf_counter()
        t, t_next = np.float32(c.sigmas[i]), np.float32(c.sigmas[i + 1])
        x = sample_step(model, variables, x, t, t_next, text, c.cache, guidance, num_cond=in_front)
        if on_step is not None:
            noisy = jax.block_until_ready(x)[:, in_front:]
            on_step(Step(i, total, noisy, time.perf_counter() - start))
    return x if c.cache is None else jnp.concatenate([place(cond, LATENTS), x], axis=1)


def check_finite(latents: Array) -> None:
    """Raises InputError on a result that holds NaN or infinity, instead of letting it become a picture."""
    if not bool(_all_finite(latents)):
        raise InputError(
            "sampling gave NaN or infinity: expected finite latents; a weight or a LoRA is damaged, or guidance is too "
            "large: load with check_finite (--check-finite) to find the tensor"
        )


@jax.jit
def _all_finite(x: Array) -> Array:
    return jnp.isfinite(x).all()


@functools.partial(jax.jit, static_argnames=("model", "num_cond"), donate_argnames="latents")
def sample_step(
    model: DiT,
    variables: Mapping[str, Any],
    latents: Array,
    t: Array,
    t_next: Array,
    text: TextStates,
    cache: KVCache | None,
    guidance: Array | None,
    *,
    num_cond: int = 0,
) -> Array:
    """Latents (B, T, h, w, C) float32 at level t -> at level t_next; the first num_cond frames stay.

    text: (B, L, ...); with guidance (2 B, L, ...), every prompt behind its negative one, so that a mesh that cuts the
    batch has both on the same devices. The guidance projection runs over all frames given: with a cache those are the
    noisy ones only, as officially.
    """
    B, T = latents.shape[:2]
    times = jnp.broadcast_to(jnp.where(jnp.arange(T) < num_cond, 0, t), (B, T))
    v = guided_velocity(model, variables, latents, times, text, cache, guidance, num_cond=num_cond)
    noisy = euler_step(latents[:, num_cond:], v[:, num_cond:], t, t_next)
    return model.placement(jnp.concatenate([latents[:, :num_cond], noisy], axis=1), LATENTS)


def guided_velocity(
    model: DiT,
    variables: Mapping[str, Any],
    latents: Array,
    times: Array,
    text: TextStates,
    cache: KVCache | None = None,
    guidance: Array | None = None,
    *,
    num_cond: int = 0,
) -> Array:
    """The velocity (B, T, h, w, C) float32 that the sampler follows, a pure function: without guidance the network's,
    else CFG-zero* of its two. Gradients go through both.

    latents: (B, T, h, w, C). times: (B, T). text: as for `sample_step`; `with_negative` puts it together.
    """
    if guidance is None:
        return model.apply(variables, latents, times, text.states, text.mask, num_cond=num_cond, cache=cache)
    twice = (jnp.repeat(x, 2, axis=0) for x in (latents, times))
    both = model.apply(variables, *twice, text.states, text.mask, num_cond=num_cond, cache=cache)
    return cfg_zero(both[1::2], both[::2], guidance)


def with_negative(negative: TextStates, positive: TextStates) -> TextStates:
    """Rows n0, p0, n1, p1, ... negative, positive: (B, L, D) each."""
    return jax.tree.map(lambda n, p: jnp.stack([n, p], axis=1).reshape(-1, *n.shape[1:]), negative, positive)
