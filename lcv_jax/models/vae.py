"""The Wan 2.1 video autoencoder (diffusers' AutoencoderKLWan), causal in time, channels last.

Whole sequences and streams run the same code. Every operation that looks back takes the frames before its
input from the Linen collection "stream" and leaves there what the next chunk will need. Without that
collection a chunk is the start of a video: convolutions see zero frames before it, and the temporal
resamplers let its first frame pass unchanged. So a whole video is one chunk from no state, and

    y, state = vae.apply({"params": params}, chunk, method="decode", mutable=["stream"])
    y, state = vae.apply({"params": params, **state}, next_chunk, method="decode", mutable=["stream"])

is a stream; models/vae_coding.py makes generators and tiles of it.
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.models.layers import Dense
from lcv_jax.models.precision import Precision
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.ops import conv

__all__ = ["Posterior", "VAEConfig", "WanVAE", "denormalize", "normalize"]

Method = Literal["encode", "decode"]
STREAM = "stream"
_ATTENTION_SCORES = 2**26  # most attention scores held at once: 256 MB in float32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Posterior:
    """A diagonal Gaussian over raw latents. mean, logvar: (B, T, h, w, z) float32, logvar within -30..20."""

    mean: jax.Array
    logvar: jax.Array

    def mode(self) -> jax.Array:
        return self.mean

    def sample(self, key: jax.Array) -> jax.Array:
        return self.mean + jnp.exp(0.5 * self.logvar) * jax.random.normal(key, self.mean.shape, self.mean.dtype)


def normalize(config: VAEConfig, z: jax.Array) -> jax.Array:
    """Raw latents (..., z) -> the normalised latents that the transformer sees, float32."""
    mean, inverse_std = _statistics(config)
    return (z.astype(jnp.float32) - mean) * inverse_std


def denormalize(config: VAEConfig, z: jax.Array) -> jax.Array:
    """The inverse of `normalize`."""
    mean, inverse_std = _statistics(config)
    return z.astype(jnp.float32) / inverse_std + mean


def _statistics(config: VAEConfig) -> tuple[jax.Array, jax.Array]:
    return jnp.asarray(config.latents_mean, jnp.float32), 1.0 / jnp.asarray(config.latents_std, jnp.float32)


class WanVAE(nn.Module):
    """Encoder and decoder. Initialise with any allowed video; all parameters appear whatever its length."""

    config: VAEConfig
    precision: Precision

    def setup(self) -> None:
        width = self.config.z_dim
        self.encoder = Encoder(self.config, self.precision)
        self.decoder = Decoder(self.config, self.precision)
        self.quant_conv = _dense(2 * width, self.precision)
        self.post_quant_conv = _dense(width, self.precision)

    def __call__(self, video: jax.Array) -> jax.Array:
        """The reconstruction of `video` from the posterior's mode."""
        return self.decode(self.encode(video).mode())

    def encode(self, video: jax.Array) -> Posterior:
        """video (B, F, H, W, 3) in [-1, 1] -> posterior of (B, T, h, w, z).

        At the start of a video F is 4n + 1, in a later chunk 4n (for the published factors); H and W are
        multiples of the spatial factor. Raises InputError otherwise.
        """
        return self.encode_coarse(self.encode_fine(video))

    def decode(self, z: jax.Array) -> jax.Array:
        """Raw latents (B, T, h, w, z) -> video (B, F, H, W, 3) in [-1, 1], of precision.output.

        F is 4 (T - 1) + 1 at the start of a video, 4 T in a later chunk.
        """
        return self.decode_fine(self.decode_coarse(z))

    def encode_fine(self, video: jax.Array) -> jax.Array:
        """video -> features (B, T, h, w, D), D the last level's width. A feature sees only its vicinity."""
        check_shape(self.config, "encode", video.shape)
        frames, factor = video.shape[1], self.config.temporal_factor
        if not self._continues():
            self.config.latent_frames(frames)
        elif frames % factor:
            raise InputError(f"a later chunk of {frames} frames cannot be encoded: expected a multiple of {factor}")
        with self.precision.products():
            return self.encoder.fine(video.astype(self.precision.compute))

    def encode_coarse(self, features: jax.Array) -> Posterior:
        """Features -> posterior. This half attends to all pixels of a frame."""
        with self.precision.products():
            moments = self.quant_conv(self.encoder.coarse(features.astype(self.precision.compute)))
        mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
        return Posterior(mean, jnp.clip(logvar, -30.0, 20.0))

    def decode_coarse(self, z: jax.Array) -> jax.Array:
        """Raw latents -> features (B, T, h, w, D). This half attends to all pixels of a frame."""
        check_shape(self.config, "decode", z.shape)
        with self.precision.products():
            return self.decoder.coarse(self.post_quant_conv(z.astype(self.precision.compute)))

    def decode_fine(self, features: jax.Array) -> jax.Array:
        """Features -> video. A pixel sees only its vicinity."""
        with self.precision.products():
            pixels = self.decoder.fine(features.astype(self.precision.compute))
        return jnp.clip(pixels.astype(self.precision.output), -1.0, 1.0)

    def _continues(self) -> bool:
        """Whether a chunk came before."""
        return bool(self.variables.get(STREAM))


def check_shape(config: VAEConfig, method: Method, shape: tuple[int, ...]) -> None:
    """Raises InputError unless `shape` can be a video to encode or latents to decode."""
    what, channels, divisor = ("latents", config.z_dim, 1)
    if method == "encode":
        what, channels, divisor = ("video", config.in_channels, config.spatial_factor)
    if len(shape) != 5 or shape[4] != channels or 0 in shape:
        raise InputError(f"{what} of shape {shape}: expected (B, frames, height, width, {channels}), none of them 0")
    if shape[2] % divisor or shape[3] % divisor:
        raise InputError(f"{what} of {shape[2]} x {shape[3]} pixels: expected multiples of {divisor}")


class Encoder(nn.Module):
    """(B, F, H, W, 3) -> (B, T, h, w, 2z), before quant_conv: `fine`, then `coarse`."""

    config: VAEConfig
    precision: Precision

    def setup(self) -> None:
        config, precision = self.config, self.precision
        self.conv_in = CausalConv(config.base_dim, precision)
        blocks: list[nn.Module] = []  # the published layout numbers blocks and resamplers in one row
        for level, multiplier in enumerate(config.dim_mult):
            width = config.base_dim * multiplier
            blocks += [Residual(width, precision) for _ in range(config.num_res_blocks)]
            if level < len(config.temporal_downsample):
                blocks.append(Downsample(config.temporal_downsample[level], precision))
        self.down_blocks = blocks
        self.mid_block = Middle(precision)
        self.norm_out = RMSNorm(precision)
        self.conv_out = CausalConv(2 * config.z_dim, precision)

    def fine(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return x

    def coarse(self, x: jax.Array) -> jax.Array:
        return self.conv_out(nn.silu(self.norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """(B, T, h, w, z), after post_quant_conv, -> (B, F, H, W, 3), not clamped: `coarse`, then `fine`."""

    config: VAEConfig
    precision: Precision

    def setup(self) -> None:
        config, precision = self.config, self.precision
        widths = [config.base_dim * multiplier for multiplier in reversed(config.dim_mult)]
        upsample = (*reversed(config.temporal_downsample), None)
        self.conv_in = CausalConv(widths[0], precision)
        self.mid_block = Middle(precision)
        self.up_blocks = [
            UpBlock(width, config.num_res_blocks + 1, temporal, precision)
            for width, temporal in zip(widths, upsample, strict=True)
        ]
        self.norm_out = RMSNorm(precision)
        self.conv_out = CausalConv(config.out_channels, precision)

    def coarse(self, x: jax.Array) -> jax.Array:
        return self.mid_block(self.conv_in(x))

    def fine(self, x: jax.Array) -> jax.Array:
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(nn.silu(self.norm_out(x)))


class UpBlock(nn.Module):
    """Residual blocks, then an upsampler: temporal None is none, False doubles space, True time as well."""

    features: int
    blocks: int
    temporal: bool | None
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            x = Residual(self.features, self.precision, name=f"resnets_{i}")(x)
        if self.temporal is None:
            return x
        return Upsample(self.temporal, self.precision, name="upsampler")(x)


class Middle(nn.Module):
    """Residual, attention within each frame, residual, at latent resolution: (B, T, h, w, D) -> the same shape."""

    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Residual(x.shape[-1], self.precision, name="resnets_0")(x)
        x = PixelAttention(self.precision, name="attention")(x)
        return Residual(x.shape[-1], self.precision, name="resnets_1")(x)


class Residual(nn.Module):
    """Two normalised causal convolutions added to the input, through a linear layer where widths differ."""

    features: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.silu(RMSNorm(self.precision, name="norm1")(x))
        y = CausalConv(self.features, self.precision, name="conv1")(y)
        y = nn.silu(RMSNorm(self.precision, name="norm2")(y))
        y = CausalConv(self.features, self.precision, name="conv2")(y)
        if x.shape[-1] != self.features:
            x = _dense(self.features, self.precision, name="conv_shortcut")(x)
        return x + y


class Downsample(nn.Module):
    """Halves height and width (zeros below and right), then, if temporal, the frames after the first."""

    temporal: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = Weights((3, 3), x.shape[-1], self.precision, name="resample")(x)
        x = conv.conv2d(x, kernel, stride=2, padding=((0, 1), (0, 1))) + bias
        if not self.temporal:
            return x
        last = _past(self)
        _keep(self, x[:, -1:])
        kernel, bias = Weights((3, 1, 1), x.shape[-1], self.precision, name="time_conv")(x)
        if last is not None:
            return conv.temporal_conv(jnp.concatenate([last, x], axis=1), kernel, stride=2) + bias
        return jnp.concatenate([x[:, :1], conv.temporal_conv(x, kernel, stride=2) + bias], axis=1)


class Upsample(nn.Module):
    """If temporal, makes two frames of each but the first; then doubles height and width, halves channels.

    The first frame is no history either: the second is convolved after two zero frames.
    """

    temporal: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if self.temporal:
            x = self._double_frames(x)
        kernel, bias = Weights((3, 3), x.shape[-1] // 2, self.precision, name="resample")(x)
        return conv.upsample_conv2d(x, kernel) + bias

    def _double_frames(self, x: jax.Array) -> jax.Array:
        past = _past(self)
        first, rest = (x[:, :1], x[:, 1:]) if past is None else (x[:, :0], x)
        before = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype) if past is None else past
        frames = jnp.concatenate([before, rest], axis=1)
        _keep(self, frames[:, -2:])
        kernel, bias = Weights((3, 1, 1), 2 * x.shape[-1], self.precision, name="time_conv")(x)
        halves = jnp.split(conv.temporal_conv(frames, kernel) + bias, 2, axis=-1)
        doubled = jnp.stack(halves, axis=2).reshape(x.shape[0], 2 * rest.shape[1], *x.shape[2:])
        return jnp.concatenate([first, doubled], axis=1)


class CausalConv(nn.Module):
    """A 3x3x3 convolution over the past two frames and this one."""

    features: int
    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = weights(self, (3, 3, 3), x.shape[-1], self.features, self.precision)
        past = _past(self)
        if x.shape[1] >= 2:
            _keep(self, x[:, -2:])
        else:
            _keep(self, jnp.concatenate([jnp.zeros_like(x) if past is None else past[:, 1:], x], axis=1))
        return conv.causal_conv3d(x, kernel, past) + bias


class PixelAttention(nn.Module):
    """Single-head attention of every frame's pixels to each other, added to the input."""

    precision: Precision

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        y = RMSNorm(self.precision, name="norm")(x)
        qkv = _dense(3 * width, self.precision, name="to_qkv")(y)
        qkv = qkv.reshape(-1, x.shape[2] * x.shape[3], 3 * width)
        y = attend(*jnp.split(qkv, 3, axis=-1)).reshape(x.shape)
        return x + _dense(width, self.precision, name="proj")(y)


def attend(q: jax.Array, k: jax.Array, v: jax.Array, most_scores: int = _ATTENTION_SCORES) -> jax.Array:
    """Attention within each frame, q k v (frames, pixels, d); holds about `most_scores` scores at most."""

    def rows(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]

    def frame(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q, k, v = qkv
        if pixels**2 <= most_scores:
            return rows(q, k, v)
        return jax.lax.map(lambda row: rows(row[None], k, v)[0], q, batch_size=max(1, most_scores // pixels))

    frames, pixels = q.shape[:2]
    at_once = min(frames, max(1, most_scores // pixels**2))
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
    module: nn.Module, window: tuple[int, ...], inputs: int, features: int, precision: Precision
) -> tuple[jax.Array, jax.Array]:
    """The kernel (*window, inputs, features) and bias of a module, in the compute dtype."""
    kernel = module.param("kernel", nn.initializers.lecun_normal(), (*window, inputs, features), precision.param)
    bias = module.param("bias", nn.initializers.zeros, (features,), precision.param)
    return kernel.astype(precision.compute), bias.astype(precision.compute)


def _dense(features: int, precision: Precision, name: str | None = None) -> Dense:
    return Dense(features, dtype=precision.compute, param_dtype=precision.param, name=name)


def _past(module: nn.Module) -> jax.Array | None:
    """What the chunk before left for this module; None at the start of a video."""
    return module.get_variable(STREAM, "past") if module.has_variable(STREAM, "past") else None


def _keep(module: nn.Module, frames: jax.Array) -> None:
    """Leaves frames for the next chunk, when the caller asked for the collection."""
    if module.is_mutable_collection(STREAM) and not module.is_initializing():
        module.put_variable(STREAM, "past", frames)
