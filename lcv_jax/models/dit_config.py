"""The DiT's architecture, read from the published config.json."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from lcv_jax import published
from lcv_jax.errors import InputError

# Fields of the published file that choose how the official code runs, not what it computes.
_RUNTIME_FIELDS = ("cp_split_hw", "enable_*")


@dataclasses.dataclass(frozen=True)
class BlockSparseConfig:
    """Block sparse attention as published (SPEC section 3). Blocks are (t, h, w) tokens.

    sparsity: share of the key blocks left out. cdf_threshold: the other way to choose how many are kept; the published
    file does not mention it. where: what errors name.
    """

    chunk_3d_shape_q: tuple[int, int, int]
    chunk_3d_shape_k: tuple[int, int, int]
    sparsity: float | None = None
    cdf_threshold: float | None = None
    where: dataclasses.InitVar[str] = "DiT config, bsa_params"

    def __post_init__(self, where: str):
        for name in ("chunk_3d_shape_q", "chunk_3d_shape_k"):
            published.positives(where, name, getattr(self, name), 3)
        for name in ("sparsity", "cdf_threshold"):
            value = getattr(self, name)
            share = value is None or (published.is_number(value, float) and 0 <= value <= 1)
            published.expect(share, where, name, value, "a number from 0 to 1 or null")
        if self.sparsity is None and self.cdf_threshold is None:
            raise InputError(f"{where}: neither sparsity nor cdf_threshold is given: expected one")


@dataclasses.dataclass(frozen=True)
class DiTConfig:
    """Names and defaults are those of the published config.json; the defaults are the 13.6B model.

    caption_channels: width of the text states. adaln_tembed_dim: width of the time embedding.
    text_tokens_zero_pad: embedded padding tokens are set to 0 and then attended, instead of being masked out.
    where: what errors name.
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
    where: dataclasses.InitVar[str] = "DiT config"

    def __post_init__(self, where: str):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type is int:
                published.positive(where, field.name, value)
            if field.type is bool:
                published.expect(isinstance(value, bool), where, field.name, value, "true or false")
        published.positives(where, "patch_size", self.patch_size, 3)
        published.expect(self.patch_size[0] == 1, where, "patch_size", self.patch_size, "1 latent frame a patch")
        even = self.frequency_embedding_size % 2 == 0
        published.expect(even, where, "frequency_embedding_size", self.frequency_embedding_size, "an even number")
        if self.hidden_size % self.num_heads or self.head_dim % 2 or self.head_dim < 6:
            raise InputError(
                f"{where}: hidden_size={self.hidden_size} does not split into num_heads={self.num_heads}: expected "
                "heads of an even number of at least 6 channels"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def latent_multiple(self) -> int:
        """What counts of condition latents and of others divide by under block sparse attention: blocks' time sides."""
        bsa = self.bsa_params
        return 1 if bsa is None else math.lcm(bsa.chunk_3d_shape_q[0], bsa.chunk_3d_shape_k[0])

    @property
    def ffn_size(self) -> int:
        """Inner width of SwiGLU: int(2/3 * mlp_ratio * D) rounded up to a multiple of 256; 11008 for D = 4096."""
        return 256 * -(-int(2 * self.mlp_ratio * self.hidden_size / 3) // 256)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "DiT config") -> "DiTConfig":
        """The config of a published config.json; raises InputError on unknown, missing or wrong fields.

        where: the file, for the errors.
        """
        given = published.fields(where, data, cls, ignored=_RUNTIME_FIELDS)
        if given["bsa_params"] is not None:
            inside = f"{where}, bsa_params"
            optional = ("sparsity", "cdf_threshold")
            bsa = published.fields(inside, given["bsa_params"], BlockSparseConfig, optional=optional)
            given["bsa_params"] = BlockSparseConfig(**bsa, where=inside)
        return cls(**given, where=where)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`, without the runtime fields."""
        return dataclasses.asdict(self)
