"""Videos through the autoencoder: whole, as a stream of constant memory, and in spatial tiles.

`VAECoder` has two functions each way. `encode` and `decode` take a whole video and may be called inside
jit. `encode_stream` and `decode_stream` are generators over chunks of time: the same numbers, but no more
is held than one chunk and the frames that it looks back to, so a video may be of any length. A stream
compiles at most three shapes: the start, the steady chunk, and a shorter tail.

Tiles bound the activations in space too. Only the fine half of the model is tiled, where nearly all memory
goes; the coarse half, with its attention over whole frames, always sees the whole picture at latent
resolution. Near its edge a tile lacks what lies beyond, so neighbours overlap and are blended linearly:
approximate, exact when one tile covers the picture. Mean error over standard deviation of decoded pixels and of
encoded means, measured with random weights at an eighth of the published width on 192 x 192 pixels
(benchmarks/vae_sharded.py): tiles of 128 that overlap by 64: 1.7 % and 1.4 %; 96 by 48: 3.7 % and 3.0 %; 64 by 32:
8.6 % and 6.8 %. The state of a stream, two frames before every convolution, is kept for all tiles. With several tiles
each half compiles its own shapes.

Over several devices the picture is cut exactly: give the coder a `Cut`, which parallel/video_cut.py has.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.models.precision import Precision
from lcv_jax.models.vae import STREAM, Method, Posterior, VAEConfig, WanVAE, check_shape

Array = jax.Array | np.ndarray
Params = Any
Call = Callable[..., Any]
"""Of a jitted function and its arguments, what the function returns."""


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


class Tile(NamedTuple):
    """Where a tile lies, in latents, and its share of each output row and column; all shares sum to 1."""

    y: np.int32
    x: np.int32
    rows: np.ndarray
    columns: np.ndarray


class Stage(NamedTuple):
    """A method of the model that is run on the picture, or on each of some tiles and blended.

    inputs, outputs: pixels per latent of what goes in and comes out. size: height and width of the tiles in
    latents, None for the picture.
    """

    method: str
    inputs: int
    outputs: int
    size: tuple[int, int] | None


class Cut(Protocol):
    """Runs a method of the model on a picture. A static argument of jitted functions: hashable, equal by value."""

    def ready(self, params: Params) -> Params:
        """Parameters where the other methods want them, so that a stream does not move them in every step."""
        ...

    def whole(self, model: WanVAE, method: str, params: Params, x: Array) -> Any:
        """The method's output for all frames of a video."""
        ...

    def step(self, model: WanVAE, method: str, params: Params, state: Any, x: Array) -> tuple[Any, Any]:
        """The output for a chunk, and the stream's new state; state None is the start of a video."""
        ...


@dataclasses.dataclass(frozen=True)
class Uncut:
    """All of the picture by one call of the model."""

    def ready(self, params: Params) -> Params:
        return params

    def whole(self, model: WanVAE, method: str, params: Params, x: Array) -> Any:
        return model.apply({"params": params}, x, method=method)

    def step(self, model: WanVAE, method: str, params: Params, state: Any, x: Array) -> tuple[Any, Any]:
        variables = {"params": params} if state is None else {"params": params, STREAM: state}
        y, kept = model.apply(variables, x, method=method, mutable=[STREAM])
        return y, kept[STREAM]


uncut = Uncut()


@dataclasses.dataclass(frozen=True)
class VAECoder:
    """How to run the autoencoder.

    chunk: latent frames per step of a stream. tiling: None is one tile. cut: how a picture is cut over devices, which
    changes no number and goes without tiling.

    `params` is the model's parameter tree. Latents here are raw: see `normalize` in models/vae.py.
    """

    config: VAEConfig
    precision: Precision
    tiling: Tiling | None = None
    chunk: int = 1
    cut: Cut = uncut

    def __post_init__(self) -> None:
        if self.tiling and self.cut != uncut:
            raise InputError(
                f"{self.tiling} and a picture cut over devices: expected one of them; leave out the tiling"
            )
        if self.chunk < 1:
            raise InputError(f"a stream in steps of {self.chunk} latent frames: expected at least 1")
        factor = self.config.spatial_factor
        if self.tiling and (self.tiling.size % factor or self.tiling.overlap % factor):
            raise InputError(f"tiling {self.tiling}: expected multiples of {factor} pixels")

    @property
    def model(self) -> WanVAE:
        return WanVAE(self.config, self.precision)

    def encode(self, params: Params, video: Array) -> Posterior:
        """video (B, F, H, W, 3) in [-1, 1], F = 4n + 1 -> posterior of latents (B, n + 1, H/8, W/8, z)."""
        return _whole(self, "encode", self.cut.ready(params), video)

    def decode(self, params: Params, z: Array) -> jax.Array:
        """Raw latents (B, T, h, w, z) -> video (B, 4T - 3, 8h, 8w, 3) in [-1, 1]."""
        return _whole(self, "decode", self.cut.ready(params), z)

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

        return _stream(self, "encode", self.cut.ready(params), whole_groups(), _call)

    def decode_stream(self, params: Params, chunks: Iterable[Array]) -> Iterator[jax.Array]:
        """Raw latents in pieces along T of any lengths -> pieces of the video. For one array z pass [z]."""
        return _stream(self, "decode", self.cut.ready(params), _regroup(chunks, self.chunk, self.chunk), _call)

    def programs(self, method: Method, params: Params, shape: tuple[int, ...], call: Call) -> None:
        """Goes through a stream without computing it: `call` gets every jitted function with its arguments, where
        jax.ShapeDtypeStruct stand for arrays, and gives what it would return.

        shape: of a whole video or of all its latents. params: as the cut's `ready` gives them.
        """
        factor = self.config.temporal_factor if method == "encode" else 1
        steady = self.chunk * factor
        first = steady - factor + 1
        lengths = [min(first, shape[1])]
        while sum(lengths) < shape[1]:
            lengths.append(min(steady, shape[1] - sum(lengths)))
        pieces = (jax.ShapeDtypeStruct((shape[0], n, *shape[2:]), jnp.float32) for n in lengths)
        for _ in _stream(self, method, params, pieces, call):
            pass


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _regroup(chunks: Iterable[Array], first: int, steady: int) -> Iterator[Array]:
    """Cuts pieces of any lengths along axis 1 anew: `first`, then `steady` each, then what is left."""
    held: Array | None = None
    size = first
    for chunk in chunks:
        if chunk.ndim != 5:
            raise InputError(f"a chunk of shape {chunk.shape}: expected five axes, (B, F, H, W, C)")
        if held is not None and (chunk.shape[:1], chunk.shape[2:]) != (held.shape[:1], held.shape[2:]):
            raise InputError(f"a chunk of shape {chunk.shape} follows one of {held.shape}: only axis 1 may differ")
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


def _stream(coder: VAECoder, method: Method, params: Params, pieces: Iterable[Array], call: Call) -> Iterator[Any]:
    """Runs pieces through all stages by `call`, keeping one state per stage and tile. params: ready for the cut."""
    states: dict[tuple[Stage, int], Any] = {}
    model = coder.model
    for piece in pieces:
        check_shape(coder.config, method, piece.shape)
        x: Any = piece
        for stage in _stages(coder, method, piece.shape):
            if stage.size is None:
                state = states.get((stage, 0))
                x, states[stage, 0] = call(_step, coder.cut, model, stage.method, params, state, x)
                continue
            canvas = _canvas(coder, stage, x.shape, start=(stage, 0) not in states)
            for i, tile in enumerate(_tiles(coder, stage, x.shape)):
                state = states.get((stage, i))
                canvas, states[stage, i] = call(_paste_step, model, stage, params, state, canvas, x, tile)
            x = canvas
        yield x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _whole(coder: VAECoder, method: Method, params: Params, x: Any) -> Any:
    check_shape(coder.config, method, x.shape)
    for stage in _stages(coder, method, x.shape):
        if stage.size is None:
            x = coder.cut.whole(coder.model, stage.method, params, x)
            continue
        canvas = _canvas(coder, stage, x.shape, start=True)
        for tile in _tiles(coder, stage, x.shape):
            canvas, _ = _paste(coder.model, stage, params, None, canvas, x, tile)
        x = canvas
    return x


def _paste(
    model: WanVAE, stage: Stage, params: Params, state: Any, canvas: jax.Array, x: jax.Array, tile: Tile
) -> tuple[jax.Array, Any]:
    """Runs one tile and adds its share to the canvas; returns that and the tile's new state."""
    height, width = (extent * stage.inputs for extent in stage.size)
    corner = (0, 0, tile.y * stage.inputs, tile.x * stage.inputs, 0)
    window = jax.lax.dynamic_slice(x, corner, (*x.shape[:2], height, width, x.shape[4]))
    y, state = uncut.step(model, stage.method, params, state, window)
    y = y.astype(jnp.float32) * (tile.rows[:, None] * tile.columns)[..., None]
    at = (0, 0, tile.y * stage.outputs, tile.x * stage.outputs, 0)
    y += jax.lax.dynamic_slice(canvas, at, y.shape)
    return jax.lax.dynamic_update_slice(canvas, y, at), state


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=4)
def _step(cut: Cut, model: WanVAE, method: str, params: Params, state: Any, x: Any) -> tuple[Any, Any]:
    return cut.step(model, method, params, state, x)


_paste_step = jax.jit(_paste, static_argnums=(0, 1), donate_argnums=(3, 4))


def _stages(coder: VAECoder, method: Method, shape: tuple[int, ...]) -> tuple[Stage, ...]:
    """What to run for an input of `shape`: one stage, or with several tiles the two halves of the model."""
    factor = coder.config.spatial_factor
    inputs, outputs = (factor, 1) if method == "encode" else (1, factor)
    extents = (shape[2] // inputs, shape[3] // inputs)
    if coder.tiling is None or max(extents) * factor <= coder.tiling.size:
        return (Stage(method, inputs, outputs, None),)
    size = tuple(min(extent, coder.tiling.size // factor) for extent in extents)
    fine, coarse = Stage(f"{method}_fine", inputs, outputs, size), Stage(f"{method}_coarse", 1, 1, None)
    return (fine, coarse) if method == "encode" else (coarse, fine)


def _canvas(coder: VAECoder, stage: Stage, shape: tuple[int, ...], *, start: bool) -> jax.Array:
    """Zeros for a tiled stage's output of an input of `shape`, the start of a video or a later chunk."""
    batch, frames, height, width, _ = shape
    first = int(start)  # a frame of its own
    if stage.method == "encode_fine":
        frames, channels = (frames - first) // coder.config.temporal_factor, coder.config.top_dim
    else:
        frames, channels = (frames - first) * coder.config.temporal_factor, coder.config.out_channels
    size = (extent // stage.inputs * stage.outputs for extent in (height, width))
    return jnp.zeros((batch, first + frames, *size, channels), jnp.float32)


def _tiles(coder: VAECoder, stage: Stage, shape: tuple[int, ...]) -> list[Tile]:
    """The tiles of a stage's input of `shape`."""
    overlap = coder.tiling.overlap // coder.config.spatial_factor
    cuts = []
    for size, extent in zip(stage.size, shape[2:4], strict=True):
        starts = spread(size, overlap, extent // stage.inputs)
        shares = blend([start * stage.outputs for start in starts], size * stage.outputs)
        cuts.append(list(zip(starts, shares, strict=True)))
    return [Tile(np.int32(y), np.int32(x), rows, columns) for y, rows in cuts[0] for x, columns in cuts[1]]


def spread(size: int, overlap: int, extent: int) -> list[int]:
    """Where tiles of `size` begin along `extent`: evenly, both ends covered, neighbours sharing `overlap`."""
    last = extent - size
    steps = -(-last // max(1, size - overlap))
    return [last * i // steps for i in range(steps + 1)] if steps else [0]


def blend(starts: list[int], size: int) -> list[np.ndarray]:
    """Each tile's share of every position that it covers: tents over the tiles, divided by their sum.

    Where two tiles overlap by at most half, that is a linear blend over just the overlap.
    """
    centres = np.arange(size) + 0.5
    tent = np.minimum(centres, size - centres)
    total = np.zeros(starts[-1] + size)
    for start in starts:
        total[start : start + size] += tent
    return [(tent / total[start : start + size]).astype(np.float32) for start in starts]
