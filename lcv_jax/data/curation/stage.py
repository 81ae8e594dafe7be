"""What a stage of curation is: settings that open a worker, which turns one item into rows.

A stage is a frozen dataclass of settings, small and picklable, so that the same one runs in a pool of processes and on
Ray. Its worker is opened once in each process, models included, and never shared.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

import pyarrow as pa

from lcv_jax.data.curation.library import Library

Row = Mapping[str, Any]
Worker = Callable[[Row], Sequence[Row]]
"""The rows of one item, none or many, of the stage's schema. Raises InputError for an item that cannot be used: that is
a rejection, with this reason, and final. Anything else that it raises is a failure, and tried once more."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One item. id: unique in its stage, and the same in the next run. given: what the worker gets, of JSON's types.
    size: about how long it takes, in any unit; the largest begin first."""

    id: str
    given: Row
    size: float = 0.0


class Stage(Protocol):
    """name: of the stage and its folder. version: of its code; another one computes all rows anew. schema: of its rows.
    after: the stages whose rows it reads; where their settings change, its rows are made anew as well."""

    name: ClassVar[str]
    version: ClassVar[int]
    schema: ClassVar[pa.Schema]
    after: ClassVar[tuple[str, ...]]

    def decides(self) -> Mapping[str, Any]:
        """What decides an item's rows, of JSON's types: settings, and fingerprints of weights; not paths and limits."""

    def check(self) -> None:
        """Raises InputError where packages or weights are missing; called once, before workers are opened."""

    def tasks(self, library: Library) -> Iterable[Task]:
        """The items, from the rows of the stages before."""

    def open(self, library: Library) -> Worker:
        """A worker for this process. Raises InputError if it cannot work at all."""


Status = Literal["done", "rejected", "failed"]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an item. rows: of a done one. reason: of the others, one line. attempts: 1, or 2 where the first
    ended in a crash, a time limit or an error. seconds: of the last attempt."""

    id: str
    status: Status
    rows: tuple[Row, ...]
    reason: str
    attempts: int
    seconds: float
