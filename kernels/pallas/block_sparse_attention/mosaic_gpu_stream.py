"""What the three kernels share: tiles that stay, tiles that stream past them, and the two kinds of product.

A thread block is a few consumer warpgroups and one producer. Each consumer holds a tile of 64 rows (queries, or keys
for dk and dv). The producer walks the group's list of columns and copies their tiles into a ring of stages; a consumer
takes those whose members include its block, and hands the others on unread.

Every array that streams is a `Channel` with two barriers per stage: `full`, which the copy completes, and `free`, at
which every consumer arrives once per stage that passes, so that all threads see every phase of every barrier.

The products have a device body (wgmma, the accumulator in registers) and an interpret body (plain products of what is
read from shared memory), because JAX's interpret mode knows neither transposed operands nor operands in registers.
All else is the same code.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu_config import ROWS, Tiling
from lcv_kernels.pallas.block_sparse_attention.xla import vary_alike

Array = jax.Array
Ref = Any


def tiles(count: int, tokens: int, head_dim: int, dtype: jnp.dtype) -> Any:
    """Shared memory for `count` tiles of (tokens, head_dim), laid out as wgmma wants them: 128-byte swizzled rows."""
    return plgpu.SMEM(
        (count, tokens, head_dim), dtype, transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128))
    )


def numbers(count: int, tokens: int) -> Any:
    """Shared memory for `count` times two float32 of each token."""
    return plgpu.SMEM((count, 2, tokens), jnp.float32)


@dataclasses.dataclass(frozen=True)
class Channel:
    """One streamed array: where the tile that starts at a token lies, its ring of stages, and their barriers."""

    source: Callable[[Array], Ref]
    ring: Ref
    full: Ref
    free: Ref

    def load(self, token: Array, slot: Array) -> None:
        plgpu.copy_gmem_to_smem(self.source(token), self.ring.at[slot], self.full.at[slot])

    def take(self, slot: Array) -> Ref:
        """Waits for the tile of this stage."""
        plgpu.barrier_wait(self.full.at[slot])
        return self.ring.at[slot]

    def release(self, slot: Array) -> None:
        """Says that this warpgroup has done with the tile."""
        plgpu.barrier_arrive(self.free.at[slot])

    @classmethod
    def of_tokens(cls, array: Ref, where: Sequence[Array], tiling: Tiling, ring: Ref, barriers: Sequence[Ref]):
        """One head of an array (B, tokens, heads, d); where: batch element, head, thread block."""
        batch, head, _ = where
        return cls(lambda token: array.at[batch, pl.ds(token, tiling.tile), head], ring, *barriers)

    @staticmethod
    def barriers(tiling: Tiling) -> tuple[plgpu.Barrier, plgpu.Barrier]:
        """Of one channel: full, free."""
        return (
            plgpu.Barrier(num_barriers=tiling.stages),
            plgpu.Barrier(num_barriers=tiling.stages, num_arrivals=tiling.consumers),
        )


@dataclasses.dataclass(frozen=True)
class Walk:
    """A group's part of the flat list of columns, in steps of one tile.

    entries: (P,) of this batch element and head. start, steps: the first entry, and tiles to go through. block:
    tokens of a column block.
    """

    entries: Ref
    start: Array
    steps: Array
    block: int
    group: int
    tiling: Tiling

    @classmethod
    def of(cls, entries: Ref, offsets: Ref, where: Sequence[Array], *, block: int, rows: int, tiling: Tiling) -> "Walk":
        """where: batch element, head, thread block. rows: tokens of a row block, block: of a column block."""
        batch, head, tile = where
        per_group = max(1, rows // tiling.rows)
        group = lax.div(tile, jnp.int32(per_group))
        start, stop = offsets[batch, head, group], offsets[batch, head, group + 1]
        steps = (stop - start) * (block // tiling.tile)
        return cls(entries.at[batch, head], start, steps, block, tiling.group(rows), tiling)

    def entry(self, step: Array) -> Array:
        """The entry of a step, of the last one for steps that are too large."""
        place = self.start + lax.div(step, jnp.int32(self.block // self.tiling.tile))
        return self.entries[jnp.minimum(place, self.entries.shape[0] - 1)]

    def slot(self, step: Array) -> Array:
        return lax.rem(step, jnp.int32(self.tiling.stages))

    def token(self, step: Array, entry: Array) -> Array:
        """Where the step's tile starts among the columns' tokens."""
        within = lax.rem(step, jnp.int32(self.block // self.tiling.tile)) * self.tiling.tile
        return lax.shift_right_logical(entry, jnp.int32(self.group)) * self.block + within

    def loop(self, body: Callable[[Array, Array, Any], Any], carry: Any) -> Any:
        """body(step, entry, carry) -> carry for every step; the next entry is read while a step is worked on."""

        def step(i, state):
            entry, carry = state
            following = self.entry(i + 1)
            return following, body(i, entry, carry)

        return lax.fori_loop(jnp.int32(0), self.steps, step, (self.entry(jnp.int32(0)), carry))[1]


def divide(
    warpgroup: Array, tiling: Tiling, walk: Walk, channels: Sequence[Channel], consumer: Callable[[], None]
) -> None:
    """What each warpgroup does: the consumers, and behind them the producer."""

    @pl.when(warpgroup < tiling.consumers)
    def _():
        limit_registers(tiling, producer=False)
        consumer()

    @pl.when(warpgroup == tiling.consumers)
    def _():
        limit_registers(tiling, producer=True)
        produce(walk, channels)


def load(copies: Sequence[tuple[Ref, Ref, Ref]]) -> None:
    """A consumer's own tiles: (from, to, barrier) each; returns when all are there."""
    for source, target, barrier in copies:
        plgpu.copy_gmem_to_smem(source, target, barrier)
    for _, _, barrier in copies:
        plgpu.barrier_wait(barrier)


def store(exists: Array, copies: Sequence[tuple[Ref, Ref]]) -> None:
    """A consumer's results, written to shared memory just before: (from, to) each, unless there is no such tile."""
    plgpu.commit_smem()

    @pl.when(exists)
    def _():
        for source, target in copies:
            plgpu.copy_smem_to_gmem(source, target)

    plgpu.wait_smem_to_gmem(0)


def produce(walk: Walk, channels: Sequence[Channel]) -> None:
    """The producer's life: fills stages as they become free, then waits until the last ones are."""

    def fill(i, entry, carry):
        slot = walk.slot(i)
        for channel in channels:

            @pl.when(i >= walk.tiling.stages)
            def _(channel=channel):
                plgpu.barrier_wait(channel.free.at[slot])

            channel.load(walk.token(i, entry), slot)
        return carry

    walk.loop(fill, ())

    @pl.loop(jnp.maximum(walk.steps - walk.tiling.stages, 0), walk.steps)
    def _(i):
        for channel in channels:
            plgpu.barrier_wait(channel.free.at[walk.slot(i)])


def consume(
    walk: Walk, channels: Sequence[Channel], member: Array, visit: Callable[[Array, Any], Any], carry: Any
) -> Any:
    """A consumer's loop: visit(slot, carry) -> carry for the tiles of its own block, the member-th of the group.

    `visit` takes and releases every channel once.
    """

    def skip(slot, carry):
        for channel in channels:
            channel.take(slot)
            channel.release(slot)
        return carry

    def step(i, entry, carry):
        slot = walk.slot(i)
        if walk.group == 1:
            return visit(slot, carry)
        mine = lax.rem(lax.shift_right_logical(entry, member), jnp.int32(2)) == 1
        return lax.cond(mine, visit, skip, slot, carry)

    return walk.loop(step, carry)


def limit_registers(tiling: Tiling, *, producer: bool) -> None:
    """Moves registers from the producer, which needs few, to the consumers: 64 Ki per thread block in all."""
    many, few = {1: (None, None), 2: (232, 40), 3: (160, 32)}[tiling.consumers]
    if many is not None:
        plgpu.set_max_registers(few if producer else many, action="decrease" if producer else "increase")


@dataclasses.dataclass(frozen=True)
class Device:
    """Products and layouts as the tensor cores have them."""

    matrix = plgpu.Layout.WGMMA
    per_row = plgpu.Layout.WGMMA.reduce(1)
    per_column = plgpu.Layout.WGMMA.reduce(0)

    def full(self, shape: tuple[int, ...], value: float) -> Array:
        """A float32 matrix or a value per row, in registers."""
        return plgpu.layout_cast(jnp.full(shape, value, jnp.float32), self.matrix if len(shape) == 2 else self.per_row)

    def per_row_values(self, vector: Ref) -> Array:
        return plgpu.layout_cast(vector[...], self.per_row)

    def per_column_values(self, vector: Ref) -> Array:
        return plgpu.layout_cast(vector[...], self.per_column)

    def outer(self, a: Ref, b: Ref) -> Array:
        """a (m, d) times the transpose of b (n, d), both in shared memory: (m, n) float32."""

        def product(accumulator):
            plgpu.wgmma(accumulator, a, b.transpose((1, 0)))
            return accumulator[...]

        return pl.run_scoped(product, plgpu.ACC((a.shape[0], b.shape[0]), jnp.float32))

    def add_product(self, total: Array, a: Array, b: Ref) -> Array:
        """total (m, d) float32 plus a (m, n), from registers, times b (n, d), from shared memory."""
        return pl.run_state(lambda accumulator: plgpu.wgmma(accumulator, a, b))(plgpu.ACC.init(total))


@dataclasses.dataclass(frozen=True)
class Interpreter:
    """The same with plain products: of what is read from shared memory, rounded alike, added up in float32.

    wgmma reads shared memory as the copies write it; these bodies read it as a thread does, so they need a fence
    before a copy may write there again.
    """

    def full(self, shape: tuple[int, ...], value: float) -> Array:
        return jnp.full(shape, value, jnp.float32)

    def per_row_values(self, vector: Ref) -> Array:
        return vector[...]

    def per_column_values(self, vector: Ref) -> Array:
        return vector[...]

    def outer(self, a: Ref, b: Ref) -> Array:
        return self._product(a[...], b[...], 1)

    def add_product(self, total: Array, a: Array, b: Ref) -> Array:
        return total + self._product(a, b[...], 0)

    def _product(self, a: Array, b: Array, axis: int) -> Array:
        plgpu.commit_smem()
        return lax.dot_general(a, b, (((1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


Unit = Device | Interpreter


def launch(
    body: Callable[..., None],
    operands: Sequence[Array],
    *,
    out_type: Sequence[jax.ShapeDtypeStruct],
    scratch: Sequence[Any],
    shape: tuple[int, int, int],
    tiling: Tiling,
    interpret: Any,
    name: str,
) -> Sequence[Array]:
    """Runs a kernel over (batch elements, heads, thread blocks), the last fastest: a head's tiles meet in the L2."""
    kernel = plgpu.kernel(
        body,
        out_type=tuple(out_type),
        scratch_types=tuple(scratch),
        grid=shape,
        grid_names=("batch", "heads", "tiles"),
        num_threads=tiling.consumers + 1,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        interpret=interpret,
        kernel_name=name,
    )
    # A kernel says nothing of the mesh axes that its results vary over: those of its operands.
    *outputs, _ = vary_alike(*kernel(*operands), operands[0])
    return tuple(outputs)


def place(tiling: Tiling) -> tuple[tuple[Array, Array, Array], Array]:
    """Batch element, head and thread block of this warpgroup, and its number in the thread block."""
    where = tuple(lax.axis_index(name) for name in ("batch", "heads", "tiles"))
    return where, lax.axis_index("warpgroup")


def rows_of(tile: Array, warpgroup: Array, tiling: Tiling, tokens: int) -> tuple[Array, Array]:
    """The first token of a consumer's tile, and whether the array has such a tile.

    Where it has none (an odd block at the end) the last tile is named, which may be read but not written.
    """
    start = tile * tiling.rows + warpgroup * ROWS
    return jnp.minimum(start, tokens - ROWS), start < tokens
