"""What enters the DiT's blocks: latents as tokens, time and text as vectors."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.models.layers import Dense, spread
from lcv_jax.models.precision import Precision

Array = jax.Array
F32 = jnp.float32


def patches(latents: Array, patch_size: tuple[int, int, int]) -> Array:
    """Latents (B, T, H, W, C) -> patches of one frame each, (B, N, p, q, C), in raster order."""
    B, T, H, W, C = latents.shape
    _, p, q = patch_size
    x = latents.reshape(B, T, H // p, p, W // q, q, C).transpose(0, 1, 2, 4, 3, 5, 6)
    return x.reshape(B, -1, p, q, C)


class PatchEmbedder(nn.Module):
    """Patches (B, A, S, p, q, C) -> tokens (B, A, S, features): a convolution whose kernel is its stride."""

    features: int
    precision: Precision

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        return _PatchProjection(self.features, self.precision, name="proj")(patches)


class _PatchProjection(nn.Module):
    features: int
    precision: Precision

    @nn.compact
    def __call__(self, patches: Array) -> Array:
        p, q, C = patches.shape[-3:]
        init = nn.initializers.xavier_uniform(in_axis=(0, 1, 2, 3), out_axis=-1)
        kernel = self.param("kernel", init, (C, 1, p, q, self.features), self.precision.param)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.precision.param)
        dtype = self.precision.compute
        x = jnp.einsum("baspqc,cpqd->basd", patches.astype(dtype), kernel[:, 0].astype(dtype))
        return x + spread(bias, x)


class TimeEmbedder(nn.Module):
    """t (B, T) in [0, 1] -> (B, T, features), float32. The timestep 1000 t is rounded to the compute dtype first."""

    features: int
    frequencies: int
    precision: Precision

    @nn.compact
    def __call__(self, t: Array) -> Array:
        timestep = (t.astype(F32) * 1000.0).astype(self.precision.compute)
        dense = functools.partial(Dense, self.features, dtype=F32, param_dtype=self.precision.param)
        h = dense(name="mlp_0")(sinusoid(timestep, self.frequencies))
        return dense(name="mlp_2")(nn.silu(h))


def sinusoid(timestep: Array, size: int) -> Array:
    """(...) in [0, 1000] -> (..., size) in float32: cosines, then sines, of timestep * 10000^(-i / (size / 2))."""
    half = size // 2
    frequencies = np.exp(-np.log(10000.0) * np.arange(half) / half).astype(np.float32)
    angle = timestep.astype(F32)[..., None] * frequencies
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class TextEmbedder(nn.Module):
    """Text states (B, L, caption_channels) -> (B, L, features)."""

    features: int
    precision: Precision

    @nn.compact
    def __call__(self, states: Array) -> Array:
        p = self.precision
        dense = functools.partial(Dense, self.features, dtype=p.compute, param_dtype=p.param)
        return dense(name="y_proj_2")(nn.gelu(dense(name="y_proj_0")(states), approximate=True))
