"""Named architectures, and the abstract parameters of any of the three models."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lcv_jax.models import dit
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


@functools.singledispatch
def abstract_params(config: ModelConfig, precision: Precision = BFLOAT16):
    """A model's parameters as a nested dict of jax.ShapeDtypeStruct; nothing is allocated."""
    raise TypeError(f"{type(config).__name__} is not a model's config")


@abstract_params.register
def _(config: DiTConfig, precision: Precision = BFLOAT16):
    return dit.abstract_params(config, precision)


@abstract_params.register
def _(config: VAEConfig, precision: Precision = BFLOAT16):
    side = config.spatial_factor
    # Enough frames for every temporal resampler to see more than its first frame.
    video = jax.ShapeDtypeStruct((1, 1 + 2 * config.temporal_factor, side, side, config.in_channels), jnp.float32)
    return jax.eval_shape(WanVAE(config, precision).init, jax.random.key(0), video)["params"]


@abstract_params.register
def _(config: UMT5Config, precision: Precision = BFLOAT16):
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    return jax.eval_shape(UMT5Encoder(config, precision).init, jax.random.key(0), ids, mask)["params"]
