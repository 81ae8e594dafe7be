"""An attention that notes which blocks it selects, to compare with the selections in the golden numbers."""

import dataclasses
import functools
import math

import jax
import numpy as np

from lcv_jax.ops.attention import Grid
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_kernels.pallas import select_blocks


@dataclasses.dataclass(frozen=True)
class Noted:
    """The selection of one call. frames: of its queries and of its keys. indices, counts: as of `Selection`."""

    frames: tuple[int, int]
    indices: np.ndarray
    counts: np.ndarray


class Notes:
    """What was noted. Equal to itself alone, so that no two attentions that note share a compiled program."""

    def __init__(self):
        self.calls: list[Noted] = []

    def taken(self) -> list[Noted]:
        """The calls that have run since they were last taken."""
        jax.effects_barrier()
        calls, self.calls = self.calls, []
        return calls


@dataclasses.dataclass(frozen=True)
class NotingAttention(BlockSparseAttention):
    """Block sparse attention that notes the selection of every call that runs, in the order of the program.

    The selection is made again from the queries and keys that the attention is given; the result is the parent's own.
    """

    notes: Notes = dataclasses.field(default_factory=Notes)

    @classmethod
    def like(cls, attention: BlockSparseAttention) -> "NotingAttention":
        return cls(**{field.name: getattr(attention, field.name) for field in dataclasses.fields(attention)})

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, grid_q: Grid, grid_k: Grid) -> jax.Array:
        tokens = {"block_q": math.prod(self.block_q), "block_k": math.prod(self.block_k)}
        found = select_blocks(q, k, **tokens, sparsity=self.sparsity, cdf=self.cdf)
        jax.debug.callback(functools.partial(self._note, (grid_q[0], grid_k[0])), *found, ordered=True)
        return super().attend(q, k, v, grid_q, grid_k)

    def _note(self, frames: tuple[int, int], indices, counts) -> None:
        self.notes.calls.append(Noted(frames, np.asarray(indices), np.asarray(counts)))


def assert_selected(attention: NotingAttention, official: list[np.ndarray], cond_frames: int = 0):
    """What was noted in whole passes since the last time is what was officially selected: sets, numbers and order.

    cond_frames: latent condition frames of a pass without cache. Officially their call stands before that of the noisy
    frames, here behind it.
    """
    notes = attention.notes.taken()
    assert len(notes) == len(official)
    if cond_frames:
        notes = [note for noisy, cond in zip(notes[::2], notes[1::2], strict=True) for note in (cond, noisy)]
        assert [note.frames[0] == note.frames[1] == cond_frames for note in notes] == [True, False] * (len(notes) // 2)
    for number, (note, expected) in enumerate(zip(notes, official, strict=True)):
        np.testing.assert_array_equal(note.counts, np.full(expected.shape[:3], expected.shape[3]), err_msg=str(number))
        np.testing.assert_array_equal(note.indices, expected, err_msg=str(number))
