"""The DiT's architecture, read from the published config.json."""

import dataclasses
from typing import Any

from lcv_jax.errors import InputError

# Fields of the published file that choose how the official code runs, not what it computes.
_RUNTIME_FIELDS = ("cp_split_hw",)
_RUNTIME_PREFIXES = ("_", "enable_")


@dataclasses.dataclass(frozen=True)
class BlockSparseConfig:
    """Block sparse attention as published (SPEC section 3). Blocks are (t, h, w) tokens.

    sparsity: share of the key blocks left out. cdf_threshold: the other way to choose how many are kept; the published
    file does not mention it.
    """

    chunk_3d_shape_q: tuple[int, int, int]
    chunk_3d_shape_k: tuple[int, int, int]
    sparsity: float | None = None
    cdf_threshold: float | None = None

    def __post_init__(self):
        for name in ("sparsity", "cdf_threshold"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= 1):
                raise InputError(f"DiT config, bsa_params: {name}={value!r}, expected a number from 0 to 1 or null")
        if self.sparsity is None and self.cdf_threshold is None:
            raise InputError("DiT config, bsa_params: neither sparsity nor cdf_threshold is given, expected one")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Names and defaults are those of the published config.json; the defaults are the 13.6B model.

    caption_channels: width of the text states. adaln_tembed_dim: width of the time embedding.
    text_tokens_zero_pad: embedded padding tokens are set to 0 and then attended, instead of being masked out.
    """

    hidden_size: int = 4096
    depth: int = 48
    num_heads: int = 32
    mlp_ratio: int = 4
    in_channels: int = 16
    out_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    caption_channels: int = 4096
    adaln_tembed_dim: int = 512
    frequency_embedding_size: int = 256
    text_tokens_zero_pad: bool = True
    bsa_params: BlockSparseConfig | None = BlockSparseConfig((4, 4, 4), (4, 4, 4), sparsity=0.9375)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"DiT config: {field.name}={value!r}, expected a positive integer")
            if field.type is bool and not isinstance(value, bool):
                raise InputError(f"DiT config: {field.name}={value!r}, expected true or false")
        if self.hidden_size % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise InputError(
                f"DiT config: hidden_size={self.hidden_size} does not split into num_heads={self.num_heads} heads "
                "of an even number of at least 6 channels"
            )
        if self.patch_size[0] != 1:
            raise InputError(f"DiT config: patch_size={self.patch_size}, expected 1 latent frame a patch")
        if self.frequency_embedding_size % 2:
            raise InputError(f"DiT config: frequency_embedding_size={self.frequency_embedding_size} is odd")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def ffn_size(self) -> int:
        """Inner width of SwiGLU: int(2/3 * mlp_ratio * D) rounded up to a multiple of 256; 11008 for D = 4096."""
        return 256 * -(-int(2 * self.mlp_ratio * self.hidden_size / 3) // 256)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "DiTConfig":
        """The config of a published config.json; raises InputError on unknown, missing or wrong fields."""
        given = {
            key: value
            for key, value in data.items()
            if key not in _RUNTIME_FIELDS and not key.startswith(_RUNTIME_PREFIXES)
        }
        _check_names("DiT config", given, cls)
        given["patch_size"] = _triple("patch_size", given["patch_size"])
        if given["bsa_params"] is not None:
            bsa = dict(given["bsa_params"])
            _check_names("DiT config, bsa_params", bsa, BlockSparseConfig)
            for key in ("chunk_3d_shape_q", "chunk_3d_shape_k"):
                bsa[key] = _triple(key, bsa[key])
            given["bsa_params"] = BlockSparseConfig(**bsa)
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`, without the runtime fields."""
        return dataclasses.asdict(self)


def _check_names(where: str, given: dict[str, Any], cls: type) -> None:
    expected = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(given.keys() - expected):
        raise InputError(f"{where}: unknown field {unknown[0]!r}; expected only {', '.join(sorted(expected))}")
    required = {f.name for f in dataclasses.fields(cls) if cls is DiTConfig or f.default is dataclasses.MISSING}
    if missing := sorted(required - given.keys()):
        raise InputError(f"{where}: field {missing[0]!r} is missing; take config.json from the published checkpoint")


def _triple(name: str, value: Any) -> tuple[int, int, int]:
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int) and v > 0 for v in value):
        raise InputError(f"DiT config: {name}={value!r}, expected three positive integers")
    return tuple(value)
