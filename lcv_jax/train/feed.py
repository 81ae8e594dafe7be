"""From the loader's rows of this host to batches on the mesh."""

import collections
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from lcv_jax.data.batching import Stream
from lcv_jax.data.loader import HostBatch, Reads
from lcv_jax.errors import InputError
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.matching import Batch
from lcv_jax.parallel.placement import MeshPlacement


def rows_of(placement: MeshPlacement) -> Callable[[int], Sequence[int]]:
    """Which rows of a batch this process's devices hold, by the batch's size; processes that share rows (a context or
    tensor axis across processes) read the same ones."""

    def rows(size: int) -> list[int]:
        slices = _sharding(placement, size).addressable_devices_indices_map((size,)).values()
        return sorted({row for (one,) in slices for row in range(*one.indices(size))})

    return rows


class Rows(Protocol):
    """This host's rows of a batch. size: samples over all hosts."""

    size: int


class HostLoader(Protocol):
    """What gives them: an endless source whose position can be saved. damaged: samples that others stood for."""

    damaged: int

    def __next__(self) -> Rows: ...

    def get_state(self) -> dict[str, Any]: ...

    def set_state(self, state: Mapping[str, Any]) -> None: ...


Put = Callable[[np.ndarray], jax.Array]
"""Rows of this host (b, ...) onto the mesh, (size, ...) over all hosts."""


@dataclasses.dataclass(frozen=True)
class Feed:
    """A source of batches for the loop (train/batches.py). batch: makes one of a host's rows. damaged: how many samples
    were, after each batch given."""

    loader: HostLoader
    placement: MeshPlacement
    batch: Callable[[Any, Put], Any]
    damaged: collections.deque[int] = dataclasses.field(default_factory=collections.deque)

    def __next__(self) -> Any:
        host = next(self.loader)
        self.damaged.append(self.loader.damaged)
        where = _sharding(self.placement, host.size)
        at = {row: i for i, row in enumerate(rows_of(self.placement)(host.size))}

        def put(x: np.ndarray) -> jax.Array:
            def part(index: tuple[slice, ...]) -> np.ndarray:
                return x[[at[row] for row in range(*index[0].indices(host.size))]]

            return jax.make_array_from_callback((host.size, *x.shape[1:]), where, part)

        return self.batch(host, put)

    def get_state(self) -> dict[str, Any]:
        return self.loader.get_state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        self.loader.set_state(state)


def latents_batch(host: HostBatch, put: Put) -> Batch:
    upsampled = None if host.upsampled is None else put(host.upsampled)
    return Batch(put(host.latents), TextStates(put(host.states), put(host.mask)), host.num_cond, upsampled)


def rows_like(placement: MeshPlacement, size: int, shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    """Shape and sharding of `size` samples, (size, *shape)."""
    return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=_sharding(placement, size))


def abstract_batch(
    stream: Stream,
    num_cond: int,
    channels: int,
    text: jax.ShapeDtypeStruct,
    placement: MeshPlacement,
    reads: Reads = Reads.LATENTS,
) -> Batch:
    """Shapes and shardings of a stream's batches. channels: of latents. text: one sample's padded states (L, D). reads:
    the loader's."""
    leaf = functools.partial(rows_like, placement, stream.batch)
    latents = leaf((*stream.form, channels), jnp.float32)
    states = TextStates(leaf(text.shape, text.dtype), leaf(text.shape[:1], jnp.bool_))
    return Batch(latents, states, num_cond, latents if reads is Reads.PAIRS else None)


def check_divides(stream: Stream, accumulate: int, placement: MeshPlacement, remedy: str) -> None:
    """Raises InputError unless micro-batches can be cut over the mesh. remedy: what to set."""
    multiple = placement.batch_multiple * accumulate
    if stream.batch % multiple:
        raise InputError(
            f"batches of {stream.batch} samples of {'x'.join(map(str, stream.form))}: "
            f"{placement.batch_multiple} devices share a batch of {accumulate} micro-batches, so it must "
            f"divide by {multiple}; set {remedy}, or a smaller mesh"
        )


def _sharding(placement: MeshPlacement, size: int) -> NamedSharding:
    return placement.sharding(("batch",), (size,))
