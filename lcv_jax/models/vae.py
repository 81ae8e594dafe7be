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
from lcv_jax.models.precision import Precision
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.models.vae_layers import (
    STREAM,
    CausalConv,
    Downsample,
    PixelAttention,
    Residual,
    RMSNorm,
    Upsample,
    dense,
)
from lcv_jax.ops.neighbourhood import Neighbourhood, alone

__all__ = ["STREAM", "Posterior", "VAEConfig", "WanVAE", "denormalize", "normalize"]

Method = Literal["encode", "decode"]


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
    """Encoder and decoder. Initialise with any allowed video; all parameters appear whatever its length.

    near: what lies around the piece of a video that a call is given; by default nothing, it is all of a picture.
    """

    config: VAEConfig
    precision: Precision
    near: Neighbourhood = alone

    def setup(self) -> None:
        width = self.config.z_dim
        self.encoder = Encoder(self.config, self.precision, self.near)
        self.decoder = Decoder(self.config, self.precision, self.near)
        self.quant_conv = dense(2 * width, self.precision, bias_init=_sure)
        self.post_quant_conv = dense(width, self.precision)

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
        if self._begins():
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
        return jnp.clip(self._pixels(features), -1.0, 1.0)

    def decode_unclamped(self, z: jax.Array) -> jax.Array:
        """`decode` without the clamp, for training: what is clamped has no gradient."""
        return self._pixels(self.decode_coarse(z))

    def _pixels(self, features: jax.Array) -> jax.Array:
        with self.precision.products():
            return self.decoder.fine(features.astype(self.precision.compute)).astype(self.precision.output)

    def _begins(self) -> bool:
        """Whether the first frame given is the video's first."""
        return self.near.begins and not self.variables.get(STREAM)


def _sure(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """Of untrained weights: means of 0, and deviations of an eighth, so that training begins with little noise."""
    return jnp.full(shape, 2 * jnp.log(1 / 8), dtype).at[: shape[0] // 2].set(0)


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
    near: Neighbourhood = alone

    def setup(self) -> None:
        config, precision, near = self.config, self.precision, self.near
        self.conv_in = CausalConv(config.base_dim, precision, near)
        blocks: list[nn.Module] = []  # the published layout numbers blocks and resamplers in one row
        for level, multiplier in enumerate(config.dim_mult):
            width = config.base_dim * multiplier
            blocks += [Residual(width, precision, near) for _ in range(config.num_res_blocks)]
            if level < len(config.temporal_downsample):
                blocks.append(Downsample(config.temporal_downsample[level], precision, near))
        self.down_blocks = blocks
        self.mid_block = Middle(precision, near)
        self.norm_out = RMSNorm(precision)
        self.conv_out = CausalConv(2 * config.z_dim, precision, near)

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
    near: Neighbourhood = alone

    def setup(self) -> None:
        config, precision, near = self.config, self.precision, self.near
        widths = [config.base_dim * multiplier for multiplier in reversed(config.dim_mult)]
        upsample = (*reversed(config.temporal_downsample), None)
        self.conv_in = CausalConv(widths[0], precision, near)
        self.mid_block = Middle(precision, near)
        self.up_blocks = [
            UpBlock(width, config.num_res_blocks + 1, temporal, precision, near)
            for width, temporal in zip(widths, upsample, strict=True)
        ]
        self.norm_out = RMSNorm(precision)
        self.conv_out = CausalConv(config.out_channels, precision, near)

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
    near: Neighbourhood = alone

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.blocks):
            x = Residual(self.features, self.precision, self.near, name=f"resnets_{i}")(x)
        if self.temporal is None:
            return x
        return Upsample(self.temporal, self.precision, self.near, name="upsampler")(x)


class Middle(nn.Module):
    """Residual, attention within each frame, residual, at latent resolution: (B, T, h, w, D) -> the same shape."""

    precision: Precision
    near: Neighbourhood = alone

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = Residual(x.shape[-1], self.precision, self.near, name="resnets_0")(x)
        x = PixelAttention(self.precision, self.near, name="attention")(x)
        return Residual(x.shape[-1], self.precision, self.near, name="resnets_1")(x)
