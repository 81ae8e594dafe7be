"""Named architectures, and the parameters of any of the three models: their shapes, and those of an untrained one."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import BFLOAT16, Precision
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_config import VAEConfig

ModelConfig = DiTConfig | VAEConfig | UMT5Config


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The three models that a checkpoint holds."""

    dit: DiTConfig
    vae: VAEConfig
    text_encoder: UMT5Config


# fmt: off
_WAN_VAE = VAEConfig(
    base_dim=96,
    z_dim=16,
    dim_mult=(1, 2, 4, 4),
    num_res_blocks=2,
    temporal_downsample=(False, True, True),
    latents_mean=(
        -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
    ),
    latents_std=(
        2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
    ),
)
# fmt: on

ARCHITECTURES = {"longcat-13b": Architecture(DiTConfig(), _WAN_VAE, UMT5Config())}


def abstract_params(config: ModelConfig, precision: Precision = BFLOAT16):
    """A model's parameters as a nested dict of jax.ShapeDtypeStruct; nothing is allocated."""
    return jax.eval_shape(functools.partial(init_params, config, precision), jax.random.key(0))


def init_params(config: ModelConfig, precision: Precision, key: jax.Array):
    """The parameters of an untrained model, in precision.param: a nested dict.

    To be jitted with shardings for its result: then no device ever holds a whole parameter that is cut.
    """
    model, inputs = _called(config, precision)
    return model.init(key, *(jnp.zeros(x.shape, x.dtype) for x in inputs))["params"]


@functools.singledispatch
def _called(config: ModelConfig, precision: Precision) -> tuple[Any, tuple[jax.ShapeDtypeStruct, ...]]:
    """A model and the smallest inputs that reach all of its parameters."""
    raise TypeError(f"{type(config).__name__} is not a model's config")


@_called.register
def _(config: DiTConfig, precision: Precision):
    latents = jax.ShapeDtypeStruct((1, 1, *config.patch_size[1:], config.in_channels), jnp.float32)
    t = jax.ShapeDtypeStruct((1, 1), jnp.float32)
    text = jax.ShapeDtypeStruct((1, 1, config.caption_channels), jnp.float32)
    return DiT(config, precision), (latents, t, text)


@_called.register
def _(config: VAEConfig, precision: Precision):
    side = config.spatial_factor
    # Enough frames for every temporal resampler to see more than its first frame.
    video = jax.ShapeDtypeStruct((1, 1 + 2 * config.temporal_factor, side, side, config.in_channels), jnp.float32)
    return WanVAE(config, precision), (video,)


@_called.register
def _(config: UMT5Config, precision: Precision):
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return UMT5Encoder(config, precision), (ids, mask)
