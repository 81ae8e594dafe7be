"""What runs a stage: a pool of processes on this machine, or Ray. One item at a time, and one outcome for each.

A worker that dies, hangs or raises costs the item that it was at one more try, in a fresh process where it died or
hung, and nothing else. Both engines spawn, as libraries with threads do not survive a fork.
"""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol

from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Outcome, Row, Stage, Task, Worker
from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

ATTEMPTS = 2
QUIET_THREADS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
    "TOKENIZERS_PARALLELISM": "false",
}
"""A worker's environment: one thread each, as there are as many workers as cores."""


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """kind: local, a pool of processes here; ray, actors of the cluster that `address` names. workers: of either.
    timeout_s: of one item. max_failed: share of failed items, of at least 200, that ends a stage: then something else
    is wrong than single files. items: that a worker takes before a new one takes its place; 0 is all."""

    kind: Literal["local", "ray"] = "local"
    workers: int = 2
    timeout_s: float = 3600.0
    max_failed: float = 0.05
    items: int = 0
    address: str | None = None

    def __post_init__(self):
        for name, least in (("workers", 1), ("items", 0)):
            if getattr(self, name) < least:
                raise InputError(f"engine, {name}={getattr(self, name)}: expected at least {least}")
        if not self.timeout_s > 0:
            raise InputError(f"engine, timeout_s={self.timeout_s}: expected seconds above 0")
        if not 0 < self.max_failed <= 1:
            raise InputError(f"engine, max_failed={self.max_failed}: expected a share above 0, up to 1")
        if self.address is not None and self.kind != "ray":
            raise InputError(f"engine, address={self.address!r}: is Ray's, and the engine is {self.kind}")


@dataclasses.dataclass(frozen=True)
class Tried:
    """One attempt at a task. kind: done; rejected, by the worker's InputError; failed, by anything else; closed, where
    the worker could not be opened at all. told: rows of a done one, otherwise the reason."""

    task: Task
    kind: Literal["done", "rejected", "failed", "closed"]
    told: Any
    seconds: float


class Backend(Protocol):
    """Workers of one stage. slots: tasks that may be under way or wait in front of the workers."""

    slots: int

    def start(self, task: Task) -> None: ...

    def finished(self) -> Iterator[Tried]:
        """Waits for at least one of the tasks under way, and gives those that have ended."""

    def close(self) -> None:
        """Ends the workers; what is under way is lost."""


def run_stage(stage: Stage, library: Library, tasks: Iterable[Task], settings: EngineSettings) -> Iterator[Outcome]:
    """The outcome of each task, in the order of their ends. Raises InputError if workers cannot be opened, or too many
    items fail."""
    waiting = sorted(tasks, key=lambda task: (-task.size, task.id))[::-1]
    attempts: dict[str, int] = {}
    ended = failed = 0
    with contextlib.closing(_backend(stage, library, settings)) as backend:
        under_way = 0
        while waiting or under_way:
            while waiting and under_way < backend.slots:
                task = waiting.pop()
                attempts[task.id] = attempts.get(task.id, 0) + 1
                backend.start(task)
                under_way += 1
            for tried in backend.finished():
                under_way -= 1
                if tried.kind == "closed":
                    raise InputError(f"stage {stage.name}: {tried.told}")
                if tried.kind == "failed" and attempts[tried.task.id] < ATTEMPTS:
                    logger.warning("%s, %s: %s; tried once more", stage.name, tried.task.id, tried.told)
                    waiting.append(tried.task)
                    continue
                ended, failed = ended + 1, failed + (tried.kind == "failed")
                yield _outcome(tried, attempts.pop(tried.task.id))
                if ended >= 200 and failed > settings.max_failed * ended:
                    raise InputError(
                        f"stage {stage.name}: {failed} of {ended} items failed, more than max_failed="
                        f"{settings.max_failed:g}, the last: {tried.told}. What is done is kept"
                    )


def work(worker: Worker, task: Task) -> tuple[str, Any, float]:
    """Of one attempt: kind, what is told, seconds. For engines, in a worker's process."""
    since = time.perf_counter()
    try:
        kind, told = "done", tuple(worker(task.given))
    except InputError as error:
        kind, told = "rejected", str(error)
    except Exception as error:
        kind, told = "failed", f"{type(error).__name__}: {error}"
    return kind, told, time.perf_counter() - since


def _outcome(tried: Tried, attempts: int) -> Outcome:
    rows: tuple[Row, ...] = tried.told if tried.kind == "done" else ()
    reason = "" if tried.kind == "done" else " ".join(str(tried.told).split())
    return Outcome(tried.task.id, tried.kind, rows, reason, attempts, tried.seconds)


def _backend(stage: Stage, library: Library, settings: EngineSettings) -> Backend:
    if settings.kind == "ray":
        from lcv_jax.data.curation.ray_actors import RayActors

        return RayActors(stage, library, settings)
    from lcv_jax.data.curation.local_pool import LocalPool

    return LocalPool(stage, library, settings)


def told(outcome: Outcome) -> Mapping[str, Any]:
    """As the library's row of it."""
    return {
        "id": outcome.id,
        "status": outcome.status,
        "reason": outcome.reason,
        "attempts": outcome.attempts,
        "seconds": outcome.seconds,
        "rows": len(outcome.rows),
    }
