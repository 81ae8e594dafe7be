"""Layers of the video autoencoder: causal convolutions, resamplers, attention within a frame, the norm.

What looks beyond its input asks two places. The Linen collection "stream" holds what the chunk before left, and gets
what the next one will need; `near` (ops/neighbourhood.py) knows the pixels and frames beside a piece of a video.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.models.layers import Dense
from lcv_jax.models.precision import Precision
from lcv_jax.ops import conv
from lcv_jax.ops.neighbourhood import Neighbourhood, alone

STREAM = "stream"
_BRANCH_GAIN = 0.1  # of untrained residual branches: deep networks learn faster that begin near the identity
_ATTENTION_SCORES = 2**26  # most attention scores held at once: 256 MB in float32


class Residual(nn.Module):
    """Two normalised causal convolutions added to the input, through a linear layer where widths differ."""

    features: int
    precision: Precision
    near: Neighbourhood = alone

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.silu(RMSNorm(self.precision, name="norm1")(x))
        y = CausalConv(self.features, self.precision, self.near, name="conv1")(y)
        y = nn.silu(RMSNorm(self.precision, name="norm2")(y))
        y = CausalConv(self.features, self.precision, self.near, gain=_BRANCH_GAIN, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = dense(self.features, self.precision, name="conv_shortcut")(x)
        return x + y


class Downsample(nn.Module):
    """Halves height and width (zeros below and right), then, if temporal, the frames after the first."""

    temporal: bool
    precision: Precision
    near: Neighbourhood = alone

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = Weights((3, 3), x.shape[-1], self.precision, name="resample")(x)
        x, padding = self.near.around(x, ((0, 1), (0, 1)))
        x = conv.conv2d(x, kernel, stride=2, padding=padding) + bias
        if not self.temporal:
            return x
        last = self.near.past(x, 1, kept(self))
        keep(self, x[:, -1:])
        kernel, bias = Weights((3, 1, 1), x.shape[-1], self.precision, name="time_conv")(x)
        if last is None:
            return jnp.concatenate([x[:, :1], conv.temporal_conv(x, kernel, stride=2) + bias], axis=1)
        y = conv.temporal_conv(jnp.concatenate([last, x], axis=1), kernel, stride=2) + bias
        return self.near.pass_first(x[:, 1::2], y)


class Upsample(nn.Module):
    """If temporal, makes two frames of each but the first; then doubles height and width, halves channels.

    The first frame is no history either: the second is convolved after two zero frames.
    """

    temporal: bool
    precision: Precision
    near: Neighbourhood = alone

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.temporal:
            x = self._double_frames(x)
        kernel, bias = Weights((3, 3), x.shape[-1] // 2, self.precision, name="resample")(x)
        x, padding = self.near.around(x, conv.SAME)
        return conv.upsample_conv2d(x, kernel, padding) + bias

    def _double_frames(self, x: jax.Array) -> jax.Array:
        kernel, bias = Weights((3, 1, 1), 2 * x.shape[-1], self.precision, name="time_conv")(x)
        first, rest = x[:, :0], self.near.after_first(x)
        past = self.near.past(rest, 2, kept(self))
        if past is None:
            first, rest = x[:, :1], x[:, 1:]
            past = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
        frames = jnp.concatenate([past, rest], axis=1)
        keep(self, frames[:, -2:])
        even, odd = jnp.split(conv.temporal_conv(frames, kernel) + bias, 2, axis=-1)
        odd = self.near.pass_first(x[:, -odd.shape[1] :], odd)
        doubled = jnp.stack([even, odd], axis=2).reshape(x.shape[0], 2 * rest.shape[1], *x.shape[2:])
        return jnp.concatenate([first, doubled], axis=1)


class CausalConv(nn.Module):
    """A 3x3x3 convolution over the past two frames and this one. gain: of untrained weights."""

    features: int
    precision: Precision
    near: Neighbourhood = alone
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = weights(self, (3, 3, 3), x.shape[-1], self.features, self.precision, self.gain)
        x, padding = self.near.around(x, conv.SAME)  # so what is kept has its neighbours' pixels already
        past = self.near.past(x, 2, kept(self))
        if x.shape[1] >= 2:
            keep(self, x[:, -2:])
        else:
            keep(self, jnp.concatenate([jnp.zeros_like(x) if past is None else past[:, 1:], x], axis=1))
        return conv.causal_conv3d(x, kernel, past, padding) + bias


class PixelAttention(nn.Module):
    """Single-head attention of every frame's pixels to each other, added to the input."""

    precision: Precision
    near: Neighbourhood = alone

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = RMSNorm(self.precision, name="norm")(x)
        q, kv = jnp.split(dense(3 * width, self.precision, name="to_qkv")(y), [width], axis=-1)
        q, kv = (y.reshape(-1, y.shape[2] * y.shape[3], y.shape[-1]) for y in (q, self.near.whole_frames(kv)))
        k, v = jnp.split(kv, 2, axis=-1)
        return x + dense(width, self.precision, name="proj")(attend(q, k, v).reshape(x.shape))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, most_scores: int = _ATTENTION_SCORES) -> jax.Array:
    """Attention within each frame, q (frames, some or all pixels, d), k v (frames, all pixels, d).

    Holds about `most_scores` scores at most.
    """

    def rows(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def frame(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = qkv
        if scores <= most_scores:
            return rows(q, k, v)
        return jax.lax.map(lambda row: rows(row[None], k, v)[0], q, batch_size=max(1, most_scores // k.shape[0]))

    scores = q.shape[1] * k.shape[1]
    at_once = min(q.shape[0], max(1, most_scores // scores))
    return jax.lax.map(frame, (q, k, v), batch_size=at_once)


class RMSNorm(nn.Module):
    """x / |x| * sqrt(C) * gamma over channels, in float32; |x| is at least 1e-12."""

    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        gamma = self.param("gamma", nn.initializers.ones, (width,), self.precision.param)
        wide = x.astype(jnp.float32)
        scale = jax.lax.rsqrt(jnp.maximum(jnp.sum(wide * wide, axis=-1, keepdims=True), 1e-24))
        return (wide * scale * (width**0.5 * gamma.astype(jnp.float32))).astype(self.precision.compute)


class Weights(nn.Module):
    """A convolution's kernel (*window, in, features) and bias, in the compute dtype."""

    window: tuple[int, ...]
    features: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return weights(self, self.window, x.shape[-1], self.features, self.precision)


def weights(
    module: nn.Module, window: tuple[int, ...], inputs: int, features: int, precision: Precision, gain: float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """The kernel (*window, inputs, features) and bias of a module, in the compute dtype. gain: of untrained kernels."""
    init = nn.initializers.variance_scaling(gain**2, "fan_in", "truncated_normal")
    kernel = module.param("kernel", init, (*window, inputs, features), precision.param)
    bias = module.param("bias", nn.initializers.zeros, (features,), precision.param)
    return kernel.astype(precision.compute), bias.astype(precision.compute)


def dense(features: int, precision: Precision, name: str | None = None, **init: nn.initializers.Initializer) -> Dense:
    return Dense(features, dtype=precision.compute, param_dtype=precision.param, name=name, **init)


def kept(module: nn.Module) -> jax.Array | None:
    """What the chunk before left for this module; None at the start of a video."""
    return module.get_variable(STREAM, "past") if module.has_variable(STREAM, "past") else None


def keep(module: nn.Module, frames: jax.Array) -> None:
    """Leaves frames for the next chunk, when the caller asked for the collection."""
    if module.is_mutable_collection(STREAM) and not module.is_initializing():
        module.put_variable(STREAM, "past", frames)
