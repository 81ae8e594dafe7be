"""Videos through the autoencoder: whole, as a stream of constant memory, and in spatial tiles.

`VAECoder` has two functions each way. `encode` and `decode` take a whole video and may be called inside
jit. `encode_stream` and `decode_stream` are generators over chunks of time: the same numbers, but no more
is held than one chunk and the frames that it looks back to, so a video may be of any length. A stream
compiles at most three shapes: the start, the steady chunk, and a shorter tail.

Tiles bound the activations in space too. A tile sees nothing beyond its edge, so tiling is approximate
unless one tile covers the picture: neighbours overlap and are blended linearly, and the middle block's
attention stays within a tile. The state of a stream, two frames before every convolution, is kept for all
tiles.
"""

import dataclasses
import functools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.models.precision import Precision
from lcv_jax.models.vae import STREAM, Method, Posterior, VAEConfig, WanVAE, check_shape

Array = jax.Array | np.ndarray
Params = Any


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Square tiles of `size` pixels a side, of which neighbours share at least `overlap` pixels.

    Both are multiples of the autoencoder's spatial factor.
    """

    size: int
    overlap: int

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise InputError(f"tiling {self}: expected 0 <= overlap < size")

    def starts(self, extent: int) -> list[int]:
        """Where tiles begin along an axis of `extent`, all in one unit: evenly spread, the ends included."""
        if extent <= self.size:
            return [0]
        last = extent - self.size
        steps = -(-last // (self.size - self.overlap))
        return [last * i // steps for i in range(steps + 1)]


class Tile(NamedTuple):
    """Where a tile lies, in latents, and its share of each output row and column; all shares sum to 1."""

    y: int
    x: int
    rows: np.ndarray
    columns: np.ndarray


@dataclasses.dataclass(frozen=True)
class VAECoder:
    """How to run the autoencoder. chunk: latent frames per step of a stream. tiling: None is one tile.

    `params` is the model's parameter tree. Latents here are raw: see `normalize` in models/vae.py.
    """

    config: VAEConfig
    precision: Precision
    tiling: Tiling | None = None
    chunk: int = 1

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise InputError(f"a stream in steps of {self.chunk} latent frames: expected at least 1")
        factor = self.config.spatial_factor
        if self.tiling and (self.tiling.size % factor or self.tiling.overlap % factor):
            raise InputError(f"tiling {self.tiling}: expected multiples of {factor} pixels")

    def encode(self, params: Params, video: Array) -> Posterior:
        """video (B, F, H, W, 3) in [-1, 1], F = 4n + 1 -> posterior of latents (B, n + 1, H/8, W/8, z)."""
        return _whole(self, "encode", params, video)

    def decode(self, params: Params, z: Array) -> jax.Array:
        """Raw latents (B, T, h, w, z) -> video (B, 4T - 3, 8h, 8w, 3) in [-1, 1]."""
        return _whole(self, "decode", params, z)

    def encode_stream(self, params: Params, chunks: Iterable[Array]) -> Iterator[Posterior]:
        """Pieces of a video along F, of any lengths that sum to 4n + 1 -> posteriors of consecutive latents.

        Raises InputError at the end if they sum to another count.
        """
        factor, frames = self.config.temporal_factor, 0

        def whole_groups() -> Iterator[Array]:
            nonlocal frames
            for piece in _regroup(chunks, 1 + (self.chunk - 1) * factor, self.chunk * factor):
                frames += piece.shape[1]
                self.config.latent_frames(frames)
                yield piece

        return _stream(self, "encode", params, whole_groups())

    def decode_stream(self, params: Params, chunks: Iterable[Array]) -> Iterator[jax.Array]:
        """Raw latents in pieces along T of any lengths -> pieces of the video. For one array z pass [z]."""
        return _stream(self, "decode", params, _regroup(chunks, self.chunk, self.chunk))


def _regroup(chunks: Iterable[Array], first: int, steady: int) -> Iterator[Array]:
    """Cuts pieces of any lengths along axis 1 anew: `first`, then `steady` each, then what is left."""
    held: Array | None = None
    size = first
    for chunk in chunks:
        if chunk.ndim != 5:
            raise InputError(f"a chunk of shape {chunk.shape}: expected five axes, (B, F, H, W, C)")
        if held is not None and (chunk.shape[:1], chunk.shape[2:]) != (held.shape[:1], held.shape[2:]):
            raise InputError(
                f"a chunk of shape {chunk.shape} follows one of {held.shape}: only axis 1 may differ"
            )
        join = jnp.concatenate if isinstance(chunk, jax.Array) else np.concatenate
        held = chunk if held is None else join([held, chunk], axis=1)
        start = 0
        while held.shape[1] - start >= size:
            yield held[:, start : start + size]
            start, size = start + size, steady
        held = held[:, start:]
    if held is None:
        raise InputError("the stream of chunks is empty: expected at least one frame")
    if held.shape[1]:
        yield held


def _stream(coder: VAECoder, method: Method, params: Params, pieces: Iterable[Array]) -> Iterator[Any]:
    """Runs pieces through all tiles, keeping one state per tile."""
    states: list[Any] = []
    for piece in pieces:
        check_shape(coder.config, method, piece.shape)
        tiles, size = _tiles(coder, method, piece.shape)
        states = states or [None] * len(tiles)
        piece, canvas = jnp.asarray(piece), _canvas(coder, method, piece.shape, start=states[0] is None)
        for i, tile in enumerate(tiles):
            canvas, states[i] = _step(coder, method, size, params, states[i], canvas, piece, tile)
        yield canvas


@functools.partial(jax.jit, static_argnums=(0, 1))
def _whole(coder: VAECoder, method: Method, params: Params, x: jax.Array) -> Any:
    check_shape(coder.config, method, x.shape)
    tiles, size = _tiles(coder, method, x.shape)
    canvas = _canvas(coder, method, x.shape, start=True)
    for tile in tiles:
        canvas, _ = _paste(coder, method, size, params, None, canvas, x, tile)
    return canvas


def _paste(
    coder: VAECoder,
    method: Method,
    size: tuple[int, int],
    params: Params,
    state: Any,
    canvas: Any,
    x: jax.Array,
    tile: Tile,
) -> tuple[Any, Any]:
    """Runs a tile of `size` latents and adds its share to the canvas; returns that and the new state."""
    inputs, outputs = _scales(coder, method)
    window = (*x.shape[:2], size[0] * inputs, size[1] * inputs, x.shape[4])
    part = jax.lax.dynamic_slice(x, (0, 0, tile.y * inputs, tile.x * inputs, 0), window)
    y, state = _apply(coder, method, params, state, part)

    def add(canvas: jax.Array, y: jax.Array) -> jax.Array:
        y = y * (tile.rows[:, None] * tile.columns)[..., None].astype(y.dtype)
        at = (0, 0, tile.y * outputs, tile.x * outputs, 0)
        return jax.lax.dynamic_update_slice(canvas, jax.lax.dynamic_slice(canvas, at, y.shape) + y, at)

    return jax.tree.map(add, canvas, y), state


_step = functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(4, 5))(_paste)


def _apply(coder: VAECoder, method: Method, params: Params, state: Any, x: jax.Array) -> tuple[Any, Any]:
    variables = {"params": params} if state is None else {"params": params, STREAM: state}
    y, kept = WanVAE(coder.config, coder.precision).apply(variables, x, method=method, mutable=[STREAM])
    return y, kept[STREAM]


def _canvas(coder: VAECoder, method: Method, shape: tuple[int, ...], *, start: bool) -> Any:
    """Zeros in the shape of the output for an input of `shape`, the start of a video or a later chunk."""
    batch, frames, height, width, _ = shape
    space, time = coder.config.spatial_factor, coder.config.temporal_factor
    first = int(start)  # a frame of its own
    if method == "decode":
        pixels = (batch, first + (frames - first) * time, height * space, width * space)
        return jnp.zeros((*pixels, coder.config.out_channels), coder.precision.output)
    latents = (batch, first + (frames - first) // time, height // space, width // space, coder.config.z_dim)
    return Posterior(jnp.zeros(latents, jnp.float32), jnp.zeros(latents, jnp.float32))


def _scales(coder: VAECoder, method: Method) -> tuple[int, int]:
    """Input and output pixels per latent, along height and width."""
    factor = coder.config.spatial_factor
    return (factor, 1) if method == "encode" else (1, factor)


def _tiles(coder: VAECoder, method: Method, shape: tuple[int, ...]) -> tuple[list[Tile], tuple[int, int]]:
    """All tiles of an input of `shape`, and their height and width in latents."""
    inputs, outputs = _scales(coder, method)
    factor = coder.config.spatial_factor
    cuts, size = [], []
    for extent in (shape[2] // inputs, shape[3] // inputs):
        tiling = coder.tiling or Tiling(extent * factor, 0)
        tiling = Tiling(tiling.size // factor, tiling.overlap // factor)
        size.append(min(tiling.size, extent))
        starts = tiling.starts(extent)
        cuts.append(list(zip(starts, _shares(starts, size[-1], extent, outputs), strict=True)))
    tiles = [Tile(y, x, rows, columns) for y, rows in cuts[0] for x, columns in cuts[1]]
    return tiles, (size[0], size[1])


def _shares(starts: list[int], size: int, extent: int, scale: int) -> list[np.ndarray]:
    """Each tile's share of every position it covers: tents over the tiles, divided by their sum.

    Where two tiles overlap by at most half, that is a linear blend over just the overlap.
    """
    centres = np.arange(size * scale) + 0.5
    tent = np.minimum(centres, size * scale - centres)
    total = np.zeros(extent * scale)
    for start in starts:
        total[start * scale :][: len(tent)] += tent
    return [(tent / total[start * scale :][: len(tent)]).astype(np.float32) for start in starts]
