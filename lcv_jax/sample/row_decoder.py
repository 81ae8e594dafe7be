"""Many videos decoded where their latents are: each device, or group that shares a video, decodes its own rows.

`Parts.frames` cuts each picture over all devices, which a video or two need; a batch of at least as many videos as
devices is decoded without any exchange, and each process gets the frames of its own rows only.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, Sharding

from lcv_jax.data import images
from lcv_jax.models.precision import Precision
from lcv_jax.models.vae import denormalize
from lcv_jax.models.vae_coding import VAECoder, uncut
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.parallel.mesh import AXES
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.video_cut import VideoCut

Array = jax.Array


class RowDecoder:
    """params: the autoencoder's. placement: with the rules by which latents are cut; the mesh axes that do not cut the
    batch cut the pictures. Holds no state."""

    def __init__(self, config: VAEConfig, precision: Precision, params: Any, placement: MeshPlacement):
        batch = placement.rules.batch
        space = tuple(axis for axis in AXES if axis not in batch)
        cut = uncut if placement.mesh.size == 1 else VideoCut(placement.mesh, space=space, batch=batch)
        self._coder = VAECoder(config, precision, cut=cut)
        self._params = cut.ready(params)
        self._parts, self._placement = placement.batch_multiple, placement

    def __call__(self, latents: Array) -> dict[int, np.ndarray]:
        """Normalised latents (B, T, h, w, C), cut along B -> uint8 frames (F, H, W, 3) of this process's rows, by row.

        B divides by the devices that share a batch. A video of each is decoded at a time, as a stream.
        """
        each = len(latents) // self._parts
        where = self._placement.sharding(("batch",), (self._parts,))
        frames: dict[int, np.ndarray] = {}
        before = None
        for number in range(each):
            now = number, self._decoded(latents, number, where)
            if before is not None:
                frames |= self._fetched(*before, each)
            before = now
        return frames if before is None else frames | self._fetched(*before, each)

    def _decoded(self, latents: Array, number: int, where: NamedSharding) -> list[Array]:
        """The pieces of every part's video of this number, uint8."""
        raw = _picked(latents, np.int32(number), self._coder.config, self._parts, where)
        return [_bytes(piece, where) for piece in self._coder.decode_stream(self._params, [raw])]

    def _fetched(self, number: int, pieces: list[Array], each: int) -> Mapping[int, np.ndarray]:
        """Host copies, when the next ones' work is on its way."""
        rows: dict[int, list[np.ndarray]] = {}
        for piece in pieces:
            for part, video in _local(piece).items():
                rows.setdefault(part * each + number, []).append(video)
        return {row: np.concatenate(parts) for row, parts in rows.items()}


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _picked(latents: Array, number: Array, config: VAEConfig, parts: int, where: Sharding) -> Array:
    """Of each part's rows one, raw: (parts, T, h, w, C)."""
    rows = latents.reshape(parts, -1, *latents.shape[1:])
    one = jax.lax.dynamic_index_in_dim(rows, number, axis=1, keepdims=False)
    return denormalize(config, jax.lax.with_sharding_constraint(one, where))


@functools.partial(jax.jit, static_argnums=1)
def _bytes(video: Array, where: Sharding) -> Array:
    """uint8, whole pictures."""
    return jax.lax.with_sharding_constraint(images.to_uint8(jnp.asarray(video)), where)


def _local(x: Array) -> dict[int, np.ndarray]:
    """The rows of an array, cut along the first axis only, that this process's devices hold."""
    rows: dict[int, np.ndarray] = {}
    for shard in x.addressable_shards:
        numbers = range(*shard.index[0].indices(x.shape[0]))
        if numbers[0] not in rows:
            rows |= dict(zip(numbers, np.asarray(shard.data), strict=True))
    return rows
