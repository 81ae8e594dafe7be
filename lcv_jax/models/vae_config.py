"""The Wan 2.1 autoencoder's architecture, as published in vae/config.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lcv_jax.errors import InputError

# Our field <- the published key, misspelt there.
_RENAMED = {"temporal_downsample": "temperal_downsample"}

_LISTS = ("dim_mult", "temperal_downsample", "latents_mean", "latents_std")

# Published keys of the other autoencoders that share the file format, with the one value that means Wan 2.1.
_FIXED = {
    "attn_scales": [],
    "dropout": 0.0,
    "is_residual": False,
    "patch_size": None,
    "decoder_base_dim": None,
}


@dataclasses.dataclass(frozen=True)
class VAEConfig:
    """Architecture and latent statistics; only what changes weights or outputs.

    Level i has base_dim * dim_mult[i] channels; between levels height and width halve, and time too where
    temporal_downsample says so. latents_mean, latents_std: z_dim numbers each.
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

    def __post_init__(self) -> None:
        for name in ("base_dim", "z_dim", "num_res_blocks", "in_channels", "out_channels"):
            value = getattr(self, name)
            _expect(_is_number(value, int) and value > 0, name, value, "a positive whole number")
        _expect(
            len(self.dim_mult) > 1 and all(_is_number(m, int) and m > 0 for m in self.dim_mult),
            "dim_mult",
            self.dim_mult,
            "two or more positive whole numbers",
        )
        levels = len(self.dim_mult) - 1
        _expect(
            len(self.temporal_downsample) == levels and all(isinstance(t, bool) for t in self.temporal_downsample),
            "temporal_downsample",
            self.temporal_downsample,
            f"{levels} of true or false, one between each two levels",
        )
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            numbers = len(value) == self.z_dim and all(_is_number(v, int | float) and math.isfinite(v) for v in value)
            _expect(numbers, name, value, f"{self.z_dim} finite numbers, one per latent channel")
        _expect(min(self.latents_std) > 0, "latents_std", self.latents_std, "positive numbers")

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
    def from_json(cls, published: Mapping[str, Any]) -> "VAEConfig":
        """Reads the published config. Keys that start with "_" do not describe the model: ignored."""
        given = {key: value for key, value in published.items() if not key.startswith("_")}
        for key, value in _FIXED.items():
            if given.pop(key, value) != value:
                raise InputError(
                    f"VAE config field {key!r} is {published[key]!r}: expected {value!r}, "
                    "the only value of the Wan 2.1 autoencoder"
                )
        factors = {f"scale_factor_{k}": given.pop(f"scale_factor_{k}", None) for k in ("spatial", "temporal")}
        fields = {_RENAMED.get(f.name, f.name): f for f in dataclasses.fields(cls)}
        for key in given:
            if key not in fields:
                raise InputError(f"VAE config field {key!r} is not known: expected {', '.join(sorted(fields))}")
        for key, field in fields.items():
            if key not in given and field.default is dataclasses.MISSING:
                raise InputError(f"VAE config field {key!r} is missing: add it from the published config")
        for key in _LISTS:
            _expect(isinstance(given[key], list | tuple), key, given[key], "a list")
        config = cls(**{fields[k].name: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        for key, value in factors.items():
            expected = config.spatial_factor if key.endswith("spatial") else config.temporal_factor
            _expect(value in (None, expected), key, value, f"{expected}, as the levels of this config give")
        return config


def _is_number(value: object, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _expect(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise InputError(f"VAE config field {_RENAMED.get(name, name)!r} is {value!r}: expected {expected}")
