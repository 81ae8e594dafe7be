"""How the Mosaic GPU kernels cut their work, and what they can do at all."""

import dataclasses
from typing import Any

import jax.numpy as jnp

# Rows of one wgmma instruction: a warpgroup holds tiles of this many tokens.
ROWS = 64
# Shared memory that one thread block of a Hopper GPU may use, less what the barriers and Mosaic's own scratch take.
SHARED_MEMORY = 227 * 1024 - 4 * 1024


@dataclasses.dataclass(frozen=True)
class Tiling:
    """One kernel's cut.

    consumers: warpgroups that compute, each on its own tile of 64 tokens; neighbouring tiles share what is loaded.
    tile: tokens of a streamed tile. stages: streamed tiles that are in flight or in use.
    """

    consumers: int
    tile: int
    stages: int

    def __post_init__(self):
        if not 1 <= self.consumers <= 3:
            raise ValueError(f"{self.consumers=}: 1, 2 or 3 warpgroups compute; more leave too few registers to each")
        if self.tile not in (64, 128):
            raise ValueError(f"{self.tile=}: a streamed tile has 64 or 128 tokens")
        if self.stages < 2:
            raise ValueError(f"{self.stages=}: loading and computing overlap only with 2 stages or more")

    @property
    def rows(self) -> int:
        """Tokens whose tiles one thread block holds."""
        return self.consumers * ROWS

    def group(self, block: int) -> int:
        """How many neighbouring blocks of `block` tokens share one list of streamed blocks."""
        return max(1, self.rows // block)


@dataclasses.dataclass(frozen=True)
class Config:
    """The cuts of the three kernels: out and lse; dq; dk and dv."""

    forward: Tiling
    dq: Tiling
    dkv: Tiling


# What a measurement has shown to be faster than the rule, by (head_dim, block_q, block_k). The benchmark
# benchmarks/bsa_gpu.py prints what belongs here.
TUNED: dict[tuple[int, int, int], Config] = {}


def choose(head_dim: int, block_q: int, block_k: int) -> Config:
    """The measured config of this size, else a rule: as many neighbours as registers allow, as many stages as fit."""
    tuned = TUNED.get((head_dim, block_q, block_k))
    if tuned is not None:
        return tuned
    return Config(
        forward=_fill(head_dim, block_q, resident=1, tile=128 if block_k % 128 == 0 else 64),
        dq=_fill(head_dim, block_q, resident=2, tile=64),
        dkv=_fill(head_dim, block_k, resident=2, tile=64),
    )


def _fill(head_dim: int, rows: int, *, resident: int, tile: int) -> Tiling:
    """rows: tokens of a resident block. resident: arrays of which each warpgroup holds a tile."""
    tiling = Tiling(2 if rows == ROWS or rows % (2 * ROWS) == 0 else 1, tile, 2)
    free = SHARED_MEMORY - shared_bytes(tiling, head_dim, resident) + 2 * _stage_bytes(tile, head_dim)
    return dataclasses.replace(tiling, stages=max(2, min(6, free // _stage_bytes(tile, head_dim))))


def shared_bytes(tiling: Tiling, head_dim: int, resident: int) -> int:
    """Shared memory of a kernel whose warpgroups hold a tile of each of `resident` arrays, two bytes a number."""
    held = tiling.rows * (resident * head_dim * 2 + 2 * 4)
    return held + tiling.stages * _stage_bytes(tiling.tile, head_dim)


def _stage_bytes(tile: int, head_dim: int) -> int:
    """Two streamed tiles, and two float32 of each of their tokens (dk and dv need them; the others waste them)."""
    return tile * (2 * head_dim * 2 + 2 * 4)


def supports(dtype: Any, head_dim: int, block_q: int, block_k: int, config: Config | None = None) -> str | None:
    """Why the kernels cannot attend arrays of this dtype with these blocks, cut like this; None: they can."""
    if jnp.dtype(dtype) not in (jnp.bfloat16, jnp.float16):
        return f"{jnp.dtype(dtype)}: the tensor cores take bfloat16 and float16"
    if head_dim not in (64, 128):
        return f"head dimension {head_dim}: the kernels have 64 and 128"
    if block_q not in (64, 128):
        return f"query blocks of {block_q} tokens: the kernels have 64 and 128"
    if block_k % 64 or not 64 <= block_k <= 1024:
        return f"key blocks of {block_k} tokens: the kernels have multiples of 64 up to 1024"
    return _mismatch(config or choose(head_dim, block_q, block_k), head_dim, block_q, block_k)


def _mismatch(config: Config, head_dim: int, block_q: int, block_k: int) -> str | None:
    for name, tiling, rows, columns, resident in (
        ("forward", config.forward, block_q, block_k, 1),
        ("dq", config.dq, block_q, block_k, 2),
        ("dkv", config.dkv, block_k, block_q, 2),
    ):
        if tiling.rows % rows and rows % tiling.rows:
            return f"{name}: {tiling.consumers} tiles of {ROWS} tokens and blocks of {rows} do not divide one another"
        if columns % tiling.tile:
            return f"{name}: streamed tiles of {tiling.tile} tokens do not divide blocks of {columns}"
        if (need := shared_bytes(tiling, head_dim, resident)) > SHARED_MEMORY:
            return f"{name}: {need} bytes of shared memory, of which there are {SHARED_MEMORY}"
    return None
