"""Which noise levels training visits, and how much each counts (SPEC 8).

u is uniform in [0, 1] and carries the weight of the loss; t = s u / (1 + (s - 1) u) is the level on the path, moved
towards noise by a shift s that grows with the number of noisy tokens (Esser et al. 2024, section 5.3.2): a picture of
more tokens is told apart from noise at higher levels.
"""

import math

import jax
import jax.numpy as jnp

from lcv_jax.flow.schedule import shifted

Array = jax.Array
SHIFT_TOKENS = 256
"""Noisy tokens at which nothing is shifted: an image of 256 x 256 pixels of the published model."""
_EDGE = 1e-7  # from 0 and 1, where the weight is 0 and its formula is not a number


def token_shift(noisy_tokens: int, unshifted: int = SHIFT_TOKENS) -> float:
    """s = sqrt(noisy tokens / unshifted): for 256 it is 1 for a 256p image, 12.1 for 480 x 832 x 93 frames."""
    return math.sqrt(noisy_tokens / unshifted)


def level(u: Array, shift: float) -> Array:
    """t in [0, 1] of u in [0, 1]."""
    return shifted(u, shift)


def level_below(u: Array, shift: float, t_start: float) -> Array:
    """t in [0, t_start] of u in [0, 1]: the part of the sampler's schedule that lies below t_start.

    A run's steps are equally far apart before the shift, and so is u: training visits levels as often as refinement
    does. The report does not say how; this is ours.
    """
    return shifted(u * (t_start / (shift - (shift - 1) * t_start)), shift)


def loss_weight(u: Array) -> Array:
    """Density of the logit-normal distribution (0, 1) at u, float32; its mean over uniform u is 1.

    The middle of the path counts most, and the ends, where the velocity is nearly the data's or the noise's mean,
    count nothing.
    """
    u = jnp.clip(u.astype(jnp.float32), _EDGE, 1 - _EDGE)
    logit = jnp.log(u) - jnp.log1p(-u)
    return jnp.exp(-jnp.square(logit) / 2) / (math.sqrt(2 * math.pi) * u * (1 - u))
