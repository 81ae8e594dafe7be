"""Which tiles stream past which resident blocks: the selection, merged over neighbours, as one flat list.

A kernel holds the tiles of a few neighbouring "row" blocks and streams the "column" blocks that at least one of them
is paired with. A column block that several neighbours chose is loaded once. Forward and dq have query blocks as rows
and key blocks as columns; dk and dv have them the other way round, which inverts the selection. No list is padded to
its worst case: the lists of all groups of neighbours stand one after the other, and each starts where the last ended.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

NOTHING = jnp.iinfo(jnp.int32).max


class Schedule(NamedTuple):
    """The column blocks of every group of neighbouring row blocks.

    entries: (B, heads, P) int32, P the number of pairs there could be; column << group | members, where bit i of
    members says that the i-th block of the group is paired with the column. offsets: (B, heads, groups + 1) int32; the
    entries of group g are entries[offsets[g]:offsets[g + 1]], columns ascending. What follows the last is 0.
    """

    entries: Array
    offsets: Array


def merge(rows: Array, columns: Array, valid: Array, *, num_rows: int, num_columns: int, group: int) -> Schedule:
    """The schedule of the pairs (rows[i], columns[i]) with valid[i]; all three are (B, heads, P).

    group: how many neighbouring row blocks share a list. A pair that is listed twice counts once. One sort and one
    scatter of P integers per head, both deterministic.

    Raises ValueError when there are more pairs of blocks than 32 bits can number (millions of tokens).
    """
    if -(-num_rows // group) * group * num_columns >= NOTHING or num_columns << group >= NOTHING:
        raise ValueError(f"{num_rows} x {num_columns} blocks in groups of {group}: too many pairs for 32-bit numbers")
    one = functools.partial(_merge, num_columns=num_columns, group=group, groups=-(-num_rows // group))
    return Schedule(*jax.vmap(jax.vmap(one))(rows, columns, valid))


def pairs(indices: Array, counts: Array) -> tuple[Array, Array, Array]:
    """The selection as a flat list: query block, key block, and whether the pair is meant; each (B, heads, Nq * R)."""
    batch, heads, blocks, most = indices.shape
    valid = jnp.arange(most) < counts[..., None]
    queries = jnp.broadcast_to(jnp.arange(blocks, dtype=jnp.int32)[:, None], indices.shape)
    return tuple(x.reshape(batch, heads, blocks * most) for x in (queries, indices.astype(jnp.int32), valid))


def _merge(
    rows: Array, columns: Array, valid: Array, *, num_columns: int, group: int, groups: int
) -> tuple[Array, Array]:
    # Sorted by group, then column, then member: the members that share a column become neighbours.
    key = (rows // group * num_columns + columns) * group + rows % group
    key = jnp.sort(jnp.where(valid, key, NOTHING))
    before = jnp.concatenate([jnp.full((1,), -1, key.dtype), key[:-1]])
    fresh = (key != before) & (key != NOTHING)
    pair, member = key // group, key % group
    first = fresh & (pair != jnp.where(before < 0, -1, before // group))
    place = jnp.where(fresh, jnp.cumsum(first) - 1, key.size)
    value = jnp.where(first, pair % num_columns << group, 0) + (1 << member)
    entries = jnp.zeros_like(key).at[place].add(value, mode="drop")
    lengths = jnp.zeros(groups, key.dtype).at[jnp.where(first, pair // num_columns, groups)].add(1, mode="drop")
    return entries, jnp.concatenate([jnp.zeros((1,), key.dtype), jnp.cumsum(lengths, dtype=key.dtype)])
