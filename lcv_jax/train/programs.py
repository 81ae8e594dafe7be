"""One compiled step for each kind of batch, compiled before the first of them comes."""

import collections
import concurrent.futures
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lcv_jax.objectives.objective import Metrics, Trees
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.train.state import TrainState
from lcv_jax.train.step import Step

_COMPILERS = 4


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of batch. name: for people. batch: shapes and shardings. tokens: of the video, all devices together."""

    name: str
    batch: Any
    tokens: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What one step does. tokens: all devices together. flops: of one device, of matrix products as compiled."""

    tokens: int
    flops: int


class Programs:
    """A `Step` that runs what was compiled for the batch's kind, and remembers what each step's work was."""

    def __init__(
        self,
        step: Step,
        state: TrainState,
        given: Trees,
        kinds: Sequence[Kind],
        on_compiled: Callable[[Kind, Work, float], None],
    ):
        """step: jitted. state: shapes and shardings. on_compiled: told of each program, and the seconds it took."""
        self._programs: dict[Any, tuple[Any, Work]] = {}
        self.done: collections.deque[Work] = collections.deque()
        lowered = [step.lower(state, kind.batch, given) for kind in kinds]
        # Several processes compile in one order, because compilers may share their work among them.
        threads = 1 if jax.process_count() > 1 else min(_COMPILERS, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            for kind, (program, seconds) in zip(kinds, pool.map(_compile, lowered), strict=True):
                work = Work(kind.tokens, count_flops(program).total)
                self._programs[_signature(kind.batch)] = program, work
                on_compiled(kind, work, seconds)

    def __call__(self, state: TrainState, batch: Any, given: Trees) -> tuple[TrainState, Metrics]:
        program, work = self._programs[_signature(batch)]
        self.done.append(work)
        return program(state, batch, given)


def _compile(lowered: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start


def _signature(batch: Any) -> Any:
    leaves, structure = jax.tree.flatten(batch)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
