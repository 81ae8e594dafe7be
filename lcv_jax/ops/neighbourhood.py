"""What lies around the piece of a video that is held here.

A convolution at the edge of a picture sees zeros beyond it. Where a picture is cut over devices, the edge of a piece
is not the edge of the picture, and the piece before in time is on another device. The autoencoder asks a
`Neighbourhood` for what it needs from there and knows nothing of devices; `alone`, its default, holds all of the
picture.
"""

import dataclasses
from typing import Protocol

import jax

from lcv_jax.ops.conv import Padding

Array = jax.Array


class Neighbourhood(Protocol):
    """x: (B, T, H, W, C), what is held here of a video at any resolution.

    begins: whether x starts with the video's first frame when it follows no earlier chunk. Where frames are cut over
    devices it does not: the first frame stands somewhere in one of the pieces, behind frames that belong to no video.
    """

    @property
    def begins(self) -> bool: ...

    def around(self, x: Array, padding: Padding) -> tuple[Array, Padding]:
        """x with `padding` pixels of its neighbours, and what of `padding` is still to be filled with zeros.

        Pixels and frames of x that belong to no video come out as zeros.
        """
        ...

    def past(self, x: Array, frames: int, kept: Array | None) -> Array | None:
        """The frames (B, frames, H, W, C) before x. kept: what the chunk before left, None at the start of a video.
        None for none.
        """
        ...

    def after_first(self, x: Array) -> Array:
        """x with zeros up to and including the video's first frame; where that `begins` x, the caller's to do."""
        ...

    def pass_first(self, unchanged: Array, changed: Array) -> Array:
        """`changed`, shaped like `unchanged`, with the video's first frame of the latter; not where that `begins` x."""
        ...

    def whole_frames(self, x: Array) -> Array:
        """All pixels of x's frames, (B, T, H of the picture, W of the picture, C)."""
        ...


@dataclasses.dataclass(frozen=True)
class Alone:
    """All of a picture, from the video's first frame on or behind an earlier chunk: nothing to be fetched."""

    @property
    def begins(self) -> bool:
        return True

    def around(self, x: Array, padding: Padding) -> tuple[Array, Padding]:
        return x, padding

    def past(self, x: Array, frames: int, kept: Array | None) -> Array | None:
        return kept

    def after_first(self, x: Array) -> Array:
        return x

    def pass_first(self, unchanged: Array, changed: Array) -> Array:
        return changed

    def whole_frames(self, x: Array) -> Array:
        return x


alone = Alone()
