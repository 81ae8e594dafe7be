"""The Wan 2.1 autoencoder's architecture, as published in vae/config.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lcv_jax import published
from lcv_jax.errors import InputError

# Our field -> the published key, misspelt there.
_RENAMED = {"temporal_downsample": "temperal_downsample"}

# Published keys of the other autoencoders that share the file format, with the one value that means Wan 2.1.
_FIXED = {
    "attn_scales": [],
    "dropout": 0.0,
    "is_residual": False,
    "patch_size": None,
    "decoder_base_dim": None,
}
_OPTIONAL = ("in_channels", "out_channels", *_FIXED)  # older files lack them
# What newer files repeat: pixels per latent in space, frames per latent frame.
_DERIVED = ("scale_factor_spatial", "scale_factor_temporal")


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Architecture and latent statistics; only what changes weights or outputs.

    Level i has base_dim * dim_mult[i] channels; between levels height and width halve, and time too where
    temporal_downsample says so. latents_mean, latents_std: z_dim numbers each. where: what errors name.
    """

    base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temporal_downsample: tuple[bool, ...]
    latents_mean: tuple[float, ...]
    latents_std: tuple[float, ...]
    in_channels: int = 3
    out_channels: int = 3
    where: dataclasses.InitVar[str] = "VAE config"

    def __post_init__(self, where: str) -> None:
        for name in ("base_dim", "z_dim", "num_res_blocks", "in_channels", "out_channels"):
            published.positive(where, name, getattr(self, name))
        multipliers = isinstance(self.dim_mult, tuple) and all(published.is_number(m) and m > 0 for m in self.dim_mult)
        several = multipliers and len(self.dim_mult) > 1
        published.expect(several, where, "dim_mult", self.dim_mult, "two or more positive whole numbers")
        doubles, steps = self.temporal_downsample, len(self.dim_mult) - 1
        booleans = isinstance(doubles, tuple) and [type(t) for t in doubles] == [bool] * steps
        expected = f"{steps} of true or false, one between each two levels"
        published.expect(booleans, where, _RENAMED["temporal_downsample"], doubles, expected)
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            numbers = isinstance(value, tuple) and [published.is_number(v, float) for v in value] == [True] * self.z_dim
            published.expect(numbers, where, name, value, f"{self.z_dim} finite numbers, one per latent channel")
        published.expect(min(self.latents_std) > 0, where, "latents_std", self.latents_std, "positive numbers")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads, with all published fields."""
        own = {_RENAMED.get(name, name): value for name, value in dataclasses.asdict(self).items()}
        derived = dict(zip(_DERIVED, (self.spatial_factor, self.temporal_factor), strict=True))
        return own | _FIXED | derived

    @property
    def spatial_factor(self) -> int:
        """Pixels per latent along height and width."""
        return 2 ** (len(self.dim_mult) - 1)

    @property
    def temporal_factor(self) -> int:
        """Pixel frames per latent frame after the first."""
        return 2 ** sum(self.temporal_downsample)

    @property
    def top_dim(self) -> int:
        """Channels at latent resolution."""
        return self.base_dim * self.dim_mult[-1]

    def latent_frames(self, frames: int) -> int:
        """Latent frames of a video of temporal_factor * n + 1 pixel frames; raises on other counts."""
        factor = self.temporal_factor
        if frames < 1 or frames % factor != 1 % factor:
            below = max(1, (frames - 1) // factor * factor + 1)
            raise InputError(
                f"a video of {frames} frames cannot be encoded: expected {factor}n + 1 frames, "
                f"the nearest counts are {below} and {below + factor}"
            )
        return (frames - 1) // factor + 1

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "VAE config") -> "VAEConfig":
        """The config of a published config.json; raises InputError on unknown, missing or wrong fields.

        where: the file, for the errors.
        """
        given = published.fields(where, data, cls, renamed=_RENAMED, fixed=_FIXED, optional=_OPTIONAL, ignored=_DERIVED)
        config = cls(**given, where=where)
        for key, factor in zip(_DERIVED, (config.spatial_factor, config.temporal_factor), strict=True):
            follows = data.get(key, factor) == factor
            published.expect(follows, where, key, data.get(key), f"{factor}, as the levels of this config give")
        return config
