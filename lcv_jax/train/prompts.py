"""Prompts to make videos of: where they come from, in which order, and their text states."""

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lcv_jax.data.sources import TOY
from lcv_jax.data.toy import LANGUAGES, Form, ToySource
from lcv_jax.data.toy.captions import write
from lcv_jax.errors import InputError
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample.encoders import Encoders
from lcv_jax.sample.jobs import read_segments
from lcv_jax.train.feed import Put

Array = jax.Array
_OBJECTS = (1, 1, 2, 3)  # in the toy world's captions, as its model was trained with
_AT_ONCE = 8
"""Prompts that are encoded together."""


def read_prompts(source: str, seed: int, frames: int) -> tuple[str, ...]:
    """All prompts of a source.

    source: a file with one prompt a line, or .jsonl with objects {"prompt": ...}; or toy:COUNT, the toy world's
    training captions in its languages by turns. seed: of the toy world. frames: of the videos; pictures are not told
    to move. Raises InputError where there are none, or more than prompts.
    """
    if not source.startswith(TOY):
        jobs = read_segments(pathlib.Path(source), "", 0)
        if any(job.negative_prompt or job.seed != i for i, job in enumerate(jobs)):
            raise InputError(
                f"prompts {source}: has negative prompts or seeds, expected prompts alone: the run has its own"
            )
        return tuple(job.prompt for job in jobs)
    count = source.removeprefix(TOY)
    if not count.isdigit() or not int(count):
        raise InputError(f"prompts {source!r}: expected toy:COUNT, a number of prompts above 0")
    world = ToySource(int(count), seed, (Form((64, 64), frames),), _OBJECTS)
    languages = list(LANGUAGES)
    return tuple(write(world.facts(i), languages[i % len(languages)], seed + i) for i in range(len(world)))


@functools.partial(jax.tree_util.register_dataclass, data_fields=["numbers", "text"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Prompts:
    """P prompts of one step. numbers: (P,) int32, which of the run's prompts. text: (P, L, D) and the mask."""

    numbers: Array
    text: TextStates


@dataclasses.dataclass(frozen=True)
class HostPrompts:
    """This host's rows of them. numbers: (p,) int32. size: prompts over all hosts."""

    numbers: np.ndarray
    size: int


class PromptOrder:
    """Which prompts each step takes: epochs in random orders without a gap. A function of the seed and the position,
    which is how many prompts were given.

    count: of prompts of a step, over all hosts. rows: which of them are this host's.
    """

    damaged = 0

    def __init__(self, prompts: Sequence[str], count: int, seed: int, rows: Callable[[int], Sequence[int]]):
        self._prompts, self._count, self._seed, self._rows = len(prompts), count, seed, rows(count)
        text = "\0".join(prompts).encode()
        self._fingerprint = f"{len(prompts)}-{zlib.crc32(text):08x}"
        self._at = 0

    def __next__(self) -> HostPrompts:
        numbers = np.array([self._number(self._at + row) for row in self._rows], np.int32)
        self._at += self._count
        return HostPrompts(numbers, self._count)

    def _number(self, position: int) -> int:
        epoch, at = divmod(position, self._prompts)
        return int(_order(self._seed, epoch, self._prompts)[at])

    def get_state(self) -> dict[str, Any]:
        """Of JSON's types."""
        return {"prompts": self._at, "fingerprint": self._fingerprint}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues behind a state. Raises InputError if that was of other prompts."""
        if state.get("fingerprint") != self._fingerprint:
            raise InputError(
                f"the checkpoint's prompts were others: {state.get('fingerprint')} then, {self._fingerprint} now "
                "(number and checksum); give the same, or start a new run"
            )
        self._at = int(state["prompts"])


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(count)


class EncodedPrompts:
    """Text states of prompts, encoded when first asked for; the text encoder is read then, and left.

    Kept on the host without padding, in the dtype of computation. tokens: that they are padded to, and longest.
    """

    def __init__(self, encoders: Encoders, prompts: Sequence[str], tokens: int):
        self._encoders, self._prompts, self.tokens = encoders, tuple(prompts), tokens

    @functools.cached_property
    def _states(self) -> list[np.ndarray]:
        encoders = self._encoders.load(("text_encoder",))
        states: list[np.ndarray] = []
        for first in range(0, len(self._prompts), _AT_ONCE):
            some = self._prompts[first : first + _AT_ONCE]
            # The last ones are filled up, so that nothing is compiled for them alone.
            filled = [*some, *some[-1:] * (min(_AT_ONCE, len(self._prompts)) - len(some))]
            rows = encoders.encode_prompts(filled, self.tokens)[: len(some)]
            states += [row.astype(self.like.dtype) for row in rows]
        return states

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """Of one prompt's padded states, (L, D)."""
        width = self._encoders.files["text_encoder"].config.d_model
        return jax.ShapeDtypeStruct((self.tokens, width), self._encoders.precision.compute)

    def rows(self, numbers: Sequence[int]) -> TextStates:
        """Padded states (n, L, D) and mask (n, L) of some of the prompts, on the host."""
        some = [self._states[number] for number in numbers]
        states = np.zeros((len(some), *self.like.shape), self.like.dtype)
        mask = np.zeros(states.shape[:2], bool)
        for row, own in enumerate(some):
            states[row, : len(own)], mask[row, : len(own)] = own, True
        return TextStates(states, mask)

    def batch(self, host: HostPrompts, put: Put) -> Prompts:
        """Of this host's rows (train/feed.py)."""
        text = self.rows(host.numbers)
        return Prompts(put(host.numbers), TextStates(put(text.states), put(text.mask)))
