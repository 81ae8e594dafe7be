"""Classifier-free guidance."""

import jax
import jax.numpy as jnp

Array = jax.Array


def cfg_zero(v_cond: Array, v_uncond: Array, scale: float | Array) -> Array:
    """CFG-zero* (SPEC 6): s v_uncond + scale (v_cond - s v_uncond), s = <v_cond, v_uncond> / (|v_uncond|^2 + 1e-8).

    v_cond, v_uncond: (B, ...). s is one number per sample, over all of its elements, in float32, so that a sample's
    result does not depend on the batch it is in. Returns float32.
    """
    v_cond, v_uncond = v_cond.astype(jnp.float32), v_uncond.astype(jnp.float32)
    axes = tuple(range(1, v_cond.ndim))
    dot = jnp.sum(v_cond * v_uncond, axis=axes, keepdims=True)
    s = dot / (jnp.sum(jnp.square(v_uncond), axis=axes, keepdims=True) + 1e-8)
    return s * v_uncond + scale * (v_cond - s * v_uncond)
