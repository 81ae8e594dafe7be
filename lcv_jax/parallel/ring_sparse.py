"""The ring with block sparse attention (arXiv 2510.22200, appendix A.2.2).

A device selects for its own query blocks among the key blocks of all, as one device would: their averages are a small
part of the keys, and are gathered. Then keys and values go around, and of each device's blocks those are attended to
that were selected. A device may hold none of them: its part of the result is 0 with a log-sum-exp of -inf.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import Grid, joined
from lcv_jax.ops.attention_parts import Part, shares
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.ring import ring
from lcv_jax.parallel.slabs import real_tokens
from lcv_kernels.pallas import Selection, XlaConfig, attend_blocks, block_means, select_by_means
from lcv_kernels.pallas.block_sparse_attention.registry import Call, chosen, target_device
from lcv_kernels.pallas.block_sparse_attention.regroup import blocks_of
from lcv_kernels.pallas.block_sparse_attention.xla import config_for

Array = jax.Array


def sparse_ring_attention(
    q: Array, k: Array, v: Array, *, axes: Sequence[str], inner: BlockSparseAttention, grid_q: Grid, grid_k: Grid
) -> Array:
    """Attention of a device's share of the blocks; inside shard_map.

    q: (B, A, S / n, h, d) and k, v: (B, A', S' / n, h, d) in whole blocks of `inner`, n the devices along `axes`; grids
    as in `ops.attention.Attention`. Returns (B, A, S / n, h, d); the outputs of padding are 0. Raises InputError for
    query blocks that differ from key blocks, grids that do not divide into them, and what the selection refuses.
    """
    if inner.token_block is None:
        raise InputError(
            f"query blocks {inner.block_q} and key blocks {inner.block_k} differ: a ring needs tokens in one order of "
            "blocks; make them equal, or cut the tokens into parts that divide the heads"
        )
    size = math.prod(inner.token_block)
    blocks = BlockShares.of(k, real_tokens(grid_k, k.shape[1]), size)
    queries = BlockShares.of(q, real_tokens(grid_q, q.shape[1]), size)
    try:
        for name, grid in (("grid_q", grid_q), ("grid_k", grid_k)):
            blocks_of(grid, inner.token_block, name)
        places = selected_places(q, k, axes, inner, queries, blocks)
        if places.shape[-1] == 0:
            return jnp.zeros_like(q)
        average = -(-places.shape[-1] // jax.lax.axis_size(axes))
        attention = _SparsePart(size, blocks.held, average, inner.implementation)
        return ring(attention, tuple(axes), joined(q), joined(k), joined(v), places).reshape(q.shape)
    except ValueError as error:
        raise InputError(f"block sparse attention: {error}") from error


@dataclasses.dataclass(frozen=True)
class BlockShares:
    """How the blocks of a video lie on devices: each holds `share` blocks of every one of `slabs` slabs, of which the
    first `real` of a whole slab are no padding."""

    slabs: int
    share: int
    real: int

    @classmethod
    def of(cls, x: Array, real_tokens: int, size: int) -> "BlockShares":
        """x: (B, A, S / n, h, d) of a device; size: tokens of a block."""
        return cls(x.shape[1], x.shape[2] // size, real_tokens // size)

    @property
    def held(self) -> int:
        return self.slabs * self.share

    def place(self, index: Array) -> Array:
        """The index of a real block in the whole video -> the device that holds it * held + its index there."""
        slab, block = index // self.real, index % self.real
        return block // self.share * self.held + slab * self.share + block % self.share

    def is_real(self, rank: Array) -> Array:
        """Which blocks of a device are no padding, (held,) bool."""
        return jnp.tile(rank * self.share + jnp.arange(self.share) < self.real, self.slabs)


def selected_places(
    q: Array, k: Array, axes: Sequence[str], inner: BlockSparseAttention, queries: BlockShares, keys: BlockShares
) -> Array:
    """Where the key blocks lie that a device's query blocks select, (B, h, Nq, R) int32, ascending; inside shard_map.

    q, k, axes, inner: as of `sparse_ring_attention`; queries, keys: how their blocks lie. A place is the device's index
    along `axes` * keys.held + the block's index there; what a row leaves unused is at its end, as the place behind the
    last. Padding among the query blocks selects nothing.
    """
    size = math.prod(inner.block_k)
    means_q, own = block_means(joined(q), size), block_means(joined(k), size)
    B, h, _, d = own.shape
    means_k = jax.lax.all_gather(own.reshape(B, h, keys.slabs, keys.share, d), axes, axis=3, tiled=True)
    means_k = means_k[:, :, :, : keys.real].reshape(B, h, -1, d)
    indices, counts = select_by_means(means_q, means_k, sparsity=inner.sparsity, cdf=inner.cdf)
    counts = jnp.where(queries.is_real(jax.lax.axis_index(axes)), counts, 0)
    meant = jnp.arange(indices.shape[-1]) < counts[..., None]
    nowhere = keys.held * jax.lax.axis_size(axes)
    return jnp.sort(jnp.where(meant, keys.place(indices), nowhere), -1)


@dataclasses.dataclass(frozen=True)
class _SparsePart:
    """A `ring.PartAttention` whose `extra` is the result of `selected_places`. size: tokens of a block; held: key
    blocks of a device; average: how many of them a row with all its places taken has, if they lie evenly."""

    size: int
    held: int
    average: int
    implementation: str | None

    def attend(self, q: Array, k: Array, v: Array, extra: Array, source: Array) -> Part:
        out, lse = self._attend(q, k, v, self._selection(extra, source))
        return Part(out.astype(jnp.float32), lse)

    def gradients(
        self, q: Array, k: Array, v: Array, extra: Array, source: Array, d_out: Array, lse: Array, means: Array
    ) -> tuple[Array, Array, Array]:
        """The whole's output is the sum of the parts', each times its share, and the shares follow from the parts'
        log-sum-exps: the part's own gradients are taken with what these two get."""
        selection = self._selection(extra, source)
        (out, part_lse), pull = jax.vjp(lambda q, k, v: self._attend(q, k, v, selection), q, k, v)
        share = shares(part_lse, lse)
        own_means = jnp.einsum("bnhd,bnhd->bhn", d_out.astype(jnp.float32), out.astype(jnp.float32))
        d_part = (share.swapaxes(1, 2)[..., None] * d_out).astype(out.dtype)
        return pull((d_part, share * (own_means - means)))

    def _attend(self, q: Array, k: Array, v: Array, selection: Selection) -> tuple[Array, Array]:
        blocks = {"block_q": self.size, "block_k": self.size}
        call = Call(
            *target_device(), str(q.dtype), q.shape[-1], **blocks, keys=k.shape[1], selected=selection.indices.shape[-1]
        )
        config = self._config(call) if chosen(call, self.implementation, None) == "xla" else None
        return attend_blocks(
            q, k, v, *selection, **blocks, return_lse=True, implementation=self.implementation, config=config
        )

    def _config(self, call: Call) -> XlaConfig:
        """XLA computes all places of a slice, meant or not, where kernels go by the counts: in slices of twice the
        average few stay empty. Without, a forward pass on 8 devices took 9 times as long."""
        config = config_for(call.platform)
        return dataclasses.replace(config, slice_keys=min(config.slice_keys, 2 * self.average * self.size))

    def _selection(self, places: Array, source: Array) -> Selection:
        """Those of the places that are the source's, as indices of its blocks."""
        first = (places < source * self.held).sum(-1, dtype=jnp.int32)
        counts = (places < (source + 1) * self.held).sum(-1, dtype=jnp.int32) - first
        most = min(places.shape[-1], self.held)
        taken = jnp.minimum(first[..., None] + jnp.arange(most), places.shape[-1] - 1)
        indices = jnp.take_along_axis(places, taken, -1) - source * self.held
        return Selection(jnp.clip(indices, 0, self.held - 1), counts)
