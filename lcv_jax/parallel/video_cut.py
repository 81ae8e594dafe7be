"""The autoencoder over the devices of a mesh: `VAECoder(config, precision, cut=VideoCut(mesh))`.

encode, decode and their streams then take and give the arrays that they do on one device, with the numbers of one
device up to rounding, forward and backward. Inputs may be host arrays; outputs are global arrays, cut where their
pixels divide evenly and whole on every device where not. `np.asarray` fetches them in a single process, and
`MeshPlacement.fetch` among several, best as bytes. Parameters may lie on the mesh in any way and are gathered on entry.

Space (height, width or both) is what sampling wants: every device has all frames of its part, so that a stream holds
one latent frame at a time, and work divides evenly. Frames divide too, but only of a whole video, held at once.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.errors import InputError
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_coding import uncut
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.parallel.halo import COLUMNS, FRAMES, ROWS, Halo, Pieces
from lcv_jax.parallel.mesh import AXES

Array = jax.Array
Names = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class VideoCut:
    """A `Cut` (models/vae_coding.py): which mesh axes cut a video's height and width, its frames, and its batch.

    space: mesh axes that cut the picture. Which of them cut rows and which columns is worked out for each size: see
    `split_picture`. Sizes need not divide. frames: mesh axes that cut whole videos in time; streams refuse it, and a
    piece has at least two latent frames. batch: mesh axes whose devices divide the number of videos. An axis that is
    not named repeats the work.
    """

    mesh: Mesh
    space: Names = AXES
    frames: Names = ()
    batch: Names = ()

    def __post_init__(self) -> None:
        named = (*self.space, *self.frames, *self.batch)
        for name in named:
            if name not in self.mesh.shape:
                raise InputError(
                    f"a video cut over mesh axis {name!r}: the mesh has {', '.join(map(str, self.mesh.shape))}"
                )
            if named.count(name) > 1:
                raise InputError(f"a video cut over mesh axis {name!r} twice: expected each axis once")

    def ready(self, params: Any) -> Any:
        return jax.device_put(params, NamedSharding(self.mesh, P()))

    def whole(self, model: WanVAE, method: str, params: Any, x: Array) -> Any:
        T = model.config.latent_frames(x.shape[1]) if method == "encode" else x.shape[1]
        halo, sizes = self.halo(model.config, method, T, x.shape), _sizes(model.config, method)
        spec = P(*self._groups(halo))
        run = functools.partial(uncut.whole, model.clone(near=halo), method)
        run = jax.shard_map(run, mesh=self.mesh, in_specs=(P(), spec), out_specs=spec)
        return self._video(halo, sizes.output, run(params, _hung_over(halo, sizes.input, x)))

    def step(self, model: WanVAE, method: str, params: Any, state: Any, x: Array) -> tuple[Any, Any]:
        if self.frames:
            raise InputError(
                f"a stream cut in time over {self.frames}: a stream goes through time on every device; cut its space, "
                "or encode and decode whole videos"
            )
        halo, sizes = self.halo(model.config, method, x.shape[1], x.shape), _sizes(model.config, method)
        spec = P(*self._groups(halo))
        run = functools.partial(uncut.step, model.clone(near=halo), method)
        run = jax.shard_map(run, mesh=self.mesh, in_specs=(P(), spec, spec), out_specs=(spec, spec))
        y, state = run(params, state, _hung_over(halo, sizes.input, x))
        return self._video(halo, sizes.output, y), state

    def halo(self, config: VAEConfig, method: str, T: int, shape: tuple[int, ...]) -> Halo:
        """How an array of `shape` with T latent frames is cut to be encoded or decoded. Raises InputError."""
        copies = self._devices(self.batch)
        if shape[0] % copies:
            raise InputError(f"{shape[0]} videos over {copies} devices ({self.batch}): expected a multiple of them")
        pixels = _sizes(config, method).input.pixels
        h, w = shape[2] // pixels, shape[3] // pixels
        rows, columns = split_picture({name: self.mesh.shape[name] for name in self.space}, h, w)
        frames = self._pieces(self.frames, T)
        if frames is not None and frames.size < 2:
            raise InputError(
                f"{T} latent frames over {frames.parts} devices ({self.frames}): a convolution looks two frames back "
                f"and asks one device for them; expected at least {frames.parts + 1} latent frames"
            )
        return Halo(self._pieces(rows, h), self._pieces(columns, w), frames)

    def _pieces(self, names: Names, extent: int) -> Pieces | None:
        parts = self._devices(names)
        names = tuple(name for name in self.mesh.axis_names if name in names)
        return Pieces(names, parts, extent) if parts > 1 else None

    def _devices(self, names: Names) -> int:
        return math.prod(self.mesh.shape[name] for name in names)

    def _groups(self, halo: Halo) -> tuple[Names, ...]:
        """The mesh axes that cut each axis of what goes in or out, (B, T, H, W, C)."""
        return (self.batch, *(p.names if p else () for p in (halo.frames, halo.rows, halo.columns)), ())

    def _video(self, halo: Halo, size: "_Size", tree: Any) -> Any:
        """What the pieces give without what hangs over, cut where it divides."""

        def crop(x: Array) -> Array:
            starts, ends = [0] * 5, list(x.shape)
            if halo.frames is not None:
                starts[FRAMES] = halo.frames.first(size.frames)
            for axis, pieces in ((ROWS, halo.rows), (COLUMNS, halo.columns)):
                if pieces is not None:
                    ends[axis] = pieces.extent * size.pixels
            x = lax.slice(x, starts, ends)
            groups = zip(self._groups(halo), x.shape, strict=True)
            names = [group if n % self._devices(group) == 0 else () for group, n in groups]
            return lax.with_sharding_constraint(x, NamedSharding(self.mesh, P(*names)))

        return jax.tree.map(crop, tree)


class _Size(NamedTuple):
    """Frames per latent frame and pixels per latent, along height and width, of an array."""

    frames: int
    pixels: int


class _Sizes(NamedTuple):
    input: _Size
    output: _Size


def _sizes(config: VAEConfig, method: str) -> _Sizes:
    """Of what a method takes and gives."""
    latents, video = _Size(1, 1), _Size(config.temporal_factor, config.spatial_factor)
    return _Sizes(video, latents) if method == "encode" else _Sizes(latents, video)


def _hung_over(halo: Halo, size: _Size, x: Any) -> Array:
    """x with zeros where pieces hang over: in front, below, on the right."""
    widths = [(0, 0)] * 5
    if halo.frames is not None:
        widths[FRAMES] = (halo.frames.first(size.frames), 0)
    for axis, pieces in ((ROWS, halo.rows), (COLUMNS, halo.columns)):
        if pieces is not None:
            widths[axis] = (0, pieces.overhang * size.pixels)
    return jnp.pad(x, widths)


def split_picture(sizes: Mapping[str, int], height: int, width: int) -> tuple[Names, Names]:
    """Which mesh axes cut the rows and which the columns of height x width latents. sizes: their devices.

    Of all ways the one with the smallest pieces (the largest of them counts); then with the shortest border to
    neighbours, in tenths of the piece; then with one direction, half as many exchanges to wait for; then again with the
    shortest border.
    """
    names = [name for name, size in sizes.items() if size > 1]

    def cost(chosen: tuple[bool, ...]) -> tuple[int, int, int, int]:
        y = math.prod(sizes[name] for name, rows in zip(names, chosen, strict=True) if rows)
        x = math.prod(sizes[name] for name, rows in zip(names, chosen, strict=True) if not rows)
        high, wide = -(-height // y), -(-width // x)
        border = min(y - 1, 2) * wide + min(x - 1, 2) * high
        return high * wide, 10 * border // (high * wide), (y > 1) + (x > 1), border

    best = min(itertools.product((False, True), repeat=len(names)), key=cost)
    rows = tuple(name for name, chosen in zip(names, best, strict=True) if chosen)
    return rows, tuple(name for name in names if name not in rows)
