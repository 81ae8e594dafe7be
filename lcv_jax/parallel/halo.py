"""The neighbourhood of a piece of a video whose neighbours are on other devices (inside shard_map).

Pieces are equal and cut between latents: of n latents over p devices each gets ceil(n / p), and what is too much hangs
over, at the bottom and right of the picture and in front of the first frame. Whatever hangs over is set to zero before
every convolution, so it does what the zeros around a picture do, and is cut off at the end. A convolution fetches the
row or column of pixels that it needs from each neighbour, at its own resolution: nothing is computed twice.

Frames are aligned at the end: the video's last frame is the last piece's last one, so that s frames to a latent frame
begin at a multiple of s, and a resampler in time does the same on each device. The video's first frame is the last of
its own group of s; where it is, is known, not where a chunk begins.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from lcv_jax.ops.conv import Padding

Array = jax.Array
FRAMES, ROWS, COLUMNS = 1, 2, 3  # axes of (B, T, H, W, C)


@dataclasses.dataclass(frozen=True)
class Pieces:
    """`extent` latents along an axis, in equal pieces over `parts` devices.

    names: the mesh axes of these devices, in the mesh's order: ppermute numbers devices so, however they are named.
    """

    names: tuple[str, ...]
    parts: int
    extent: int

    @property
    def size(self) -> int:
        """Latents in a piece."""
        return -(-self.extent // self.parts)

    @property
    def overhang(self) -> int:
        """Latents that hang over."""
        return self.size * self.parts - self.extent

    def first(self, scale: int) -> int:
        """Where the first frame of a video stands, behind those that hang over, with `scale` frames to a latent."""
        return scale * (self.overhang + 1) - 1

    def places(self, local: int) -> tuple[Array, int]:
        """Where the `local` elements held here stand among all, and how many there are to a latent."""
        return lax.axis_index(self.names) * local + jnp.arange(local), local // self.size

    def shifted(self, x: Array, by: int) -> Array:
        """x of the device `by` places before this one; zeros where there is none."""
        return lax.ppermute(x, self.names, [(i, i + by) for i in range(self.parts) if 0 <= i + by < self.parts])

    def extended(self, x: Array, axis: int, before: int, after: int) -> Array:
        """x with the last elements of the piece before and the first of the piece behind; zeros at the ends."""
        pieces = [x]
        if before:
            pieces.insert(0, self.shifted(lax.slice_in_dim(x, x.shape[axis] - before, x.shape[axis], axis=axis), 1))
        if after:
            pieces.append(self.shifted(lax.slice_in_dim(x, 0, after, axis=axis), -1))
        return jnp.concatenate(pieces, axis=axis)


@dataclasses.dataclass(frozen=True)
class Halo:
    """A `Neighbourhood` (ops/neighbourhood.py) for shard_map; None for an axis that is not cut."""

    rows: Pieces | None
    columns: Pieces | None
    frames: Pieces | None

    @property
    def begins(self) -> bool:
        return self.frames is None

    def around(self, x: Array, padding: Padding) -> tuple[Array, Padding]:
        x, left = self._only_video(x), list(padding)
        for i, (axis, pieces) in enumerate(((ROWS, self.rows), (COLUMNS, self.columns))):
            if pieces is not None:  # columns after rows: theirs hold the corners then
                x, left[i] = pieces.extended(x, axis, *padding[i]), (0, 0)
        return x, (left[0], left[1])

    def past(self, x: Array, frames: int, kept: Array | None) -> Array | None:
        return kept if self.frames is None else self.frames.shifted(x[:, -frames:], 1)

    def after_first(self, x: Array) -> Array:
        if self.frames is None:
            return x
        places, first = self._first(x)
        return jnp.where(_along(places > first, FRAMES), x, 0)

    def pass_first(self, unchanged: Array, changed: Array) -> Array:
        if self.frames is None:
            return changed
        places, first = self._first(changed)
        return jnp.where(_along(places == first, FRAMES), unchanged, changed)

    def whole_frames(self, x: Array) -> Array:
        for axis, pieces in ((ROWS, self.rows), (COLUMNS, self.columns)):
            if pieces is not None:
                extent = x.shape[axis] // pieces.size * pieces.extent
                x = lax.all_gather(x, pieces.names, axis=axis, tiled=True)
                x = lax.slice_in_dim(x, 0, extent, axis=axis)
        return x

    def _first(self, x: Array) -> tuple[Array, int]:
        """The places of x's frames, and the place of the video's first frame."""
        places, scale = self.frames.places(x.shape[FRAMES])
        return places, self.frames.first(scale)

    def _only_video(self, x: Array) -> Array:
        """x with zeros where it hangs over."""
        inside = []
        for axis, pieces in ((ROWS, self.rows), (COLUMNS, self.columns)):
            if pieces is not None and pieces.overhang:
                places, scale = pieces.places(x.shape[axis])
                inside.append(_along(places < scale * pieces.extent, axis))
        if self.frames is not None:
            places, first = self._first(x)
            inside.append(_along(places >= first, FRAMES))
        for condition in inside:
            x = jnp.where(condition, x, 0)
        return x


def _along(condition: Array, axis: int) -> Array:
    """A condition on the places along one axis, to be broadcast against (B, T, H, W, C)."""
    return jnp.expand_dims(condition, [i for i in range(5) if i != axis])
