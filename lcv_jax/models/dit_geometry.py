"""The static shape of one forward pass of the DiT, and how its tokens stand."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import joined
from lcv_jax.ops.token_order import from_order, to_order

Array = jax.Array
Grid = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """The static shape of one forward pass, and how its tokens stand (B, A, S, D): see `ops.attention.Attention`.

    grid: tokens (T, H, W) of the latents given; cond: how many of those frames are condition frames; cached: how many
    condition frames stand before them in the cache; block: the order of the tokens, blocks of (t, h, w) one after the
    other, or raster order (None); parts: the attention's.
    """

    grid: Grid
    cond: int = 0
    cached: int = 0
    block: Grid | None = None
    parts: int = 1

    def __post_init__(self):
        if self.block is not None and (self.cond % self.block[0] or self.cached % self.block[0]):
            raise InputError(
                f"{self.cond or self.cached} condition frames do not divide into blocks of {self.block[0]} frames: "
                "block sparse attention needs condition and noisy frames in multiples of it"
            )

    @property
    def frame_tokens(self) -> int:
        return self.grid[1] * self.grid[2]

    @property
    def slab_frames(self) -> int:
        return 1 if self.block is None else self.block[0]

    @property
    def cond_slabs(self) -> int:
        return self.cond // self.slab_frames

    @property
    def slab_tokens(self) -> int:
        """Tokens of a slab, without padding."""
        return self.slab_frames * self.frame_tokens

    @property
    def padded_tokens(self) -> int:
        """S, with padding: a multiple of `parts` tokens, or blocks."""
        unit = self.parts * (1 if self.block is None else math.prod(self.block))
        return -(-self.slab_tokens // unit) * unit

    def frames(self, count: int) -> Grid:
        """The grid of `count` frames of this size."""
        return (count, *self.grid[1:])

    def slabs(self, x: Array, frames: int | None = None) -> Array:
        """Tokens (B, N, ...) in raster order, of the grid or so many frames of its size -> (B, A, S, ...)."""
        grid = self.grid if frames is None else self.frames(frames)
        x = to_order(x, grid, self.block)
        x = x.reshape(x.shape[0], grid[0] // self.slab_frames, self.slab_tokens, *x.shape[2:])
        padding = [(0, 0)] * x.ndim
        padding[2] = (0, self.padded_tokens - self.slab_tokens)
        return jnp.pad(x, padding)

    def tokens(self, x: Array) -> Array:
        """(B, A, S, ...) -> (B, N, ...), still in the order of the slabs, without padding."""
        return joined(x[:, :, : self.slab_tokens])

    def raster(self, x: Array) -> Array:
        """The inverse of `slabs`, of the grid."""
        return from_order(self.tokens(x), self.grid, self.block)

    def by_frame(self, x: Array) -> Array:
        """Tokens (B, A, S, D) with the frame that each belongs to on an axis of its own, (B, A, b, t, c, D)."""
        of_a_frame = 1 if self.block is None else self.block[1] * self.block[2]
        return x.reshape(*x.shape[:2], -1, self.slab_frames, of_a_frame, x.shape[-1])

    def of_frames(self, vectors: Array) -> Array:
        """One vector per latent frame (B, T, D), shaped to broadcast against `by_frame`: (B, A, 1, t, 1, D)."""
        return vectors.reshape(vectors.shape[0], -1, 1, self.slab_frames, 1, vectors.shape[-1])
