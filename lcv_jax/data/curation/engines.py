"""What runs a stage: a pool of processes on this machine, or Ray. One item at a time, and one outcome for each.

A worker that dies, hangs or raises costs the item that it was at one more try, in a fresh process where it died or
hung, and nothing else. Both engines start processes anew, as libraries with threads do not survive a fork.
"""

import contextlib
import dataclasses
import logging
import pathlib
import time
import traceback
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
    "OPENCV_FOR_THREADS_NUM": "1",
    "PJRT_NPROC": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    "JAX_PLATFORMS": "cpu",
    "TOKENIZERS_PARALLELISM": "false",
}
"""A worker's environment where the user's says nothing else: one thread each, as there are as many workers as cores.
FFmpeg and onnxruntime do not read it, and are told by those who use them."""
TICK = 2.0
"""Seconds after which an engine is asked again."""
_MANY, _FEW = 200, 10
"""Items after which failed ones may end a stage, and after which they do if all failed."""


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """kind: local, a pool of processes here; ray, actors of a cluster. workers: of either.
    timeout_s: of one item. max_failed: share of failed items, of at least 200, that ends a stage: then something else
    is wrong than single files; so it is where all of the first 10 failed. items: that a worker takes before a new one
    takes its place; 0 is all. Of Ray only: address, of a running cluster, such as auto; None is one of this machine's
    own; gpus, that each worker has, or a share of one."""

    kind: Literal["local", "ray"] = "local"
    workers: int = 2
    timeout_s: float = 3600.0
    max_failed: float = 0.05
    items: int = 0
    address: str | None = None
    gpus: float = 0.0

    def __post_init__(self):
        for name, least in (("workers", 1), ("items", 0)):
            if getattr(self, name) < least:
                raise InputError(f"engine, {name}={getattr(self, name)}: expected at least {least}")
        if not self.timeout_s > 0:
            raise InputError(f"engine, timeout_s={self.timeout_s}: expected seconds above 0")
        if not 0 < self.max_failed <= 1:
            raise InputError(f"engine, max_failed={self.max_failed}: expected a share above 0, up to 1")
        if self.gpus < 0:
            raise InputError(f"engine, gpus={self.gpus}: expected 0 or more")
        for name, value in (("address", self.address), ("gpus", self.gpus)):
            if value and self.kind != "ray":
                raise InputError(f"engine, {name}={value!r}: is Ray's, and the engine is {self.kind}")


@dataclasses.dataclass(frozen=True)
class Tried:
    """One attempt at a task. kind: done; rejected, by the worker's InputError; failed, by anything else; closed, where
    the worker could not be opened at all. told: rows of a done one, otherwise the reason."""

    task: Task
    kind: Literal["done", "rejected", "failed", "closed"]
    told: Any
    seconds: float


class Backend(Protocol):
    """Workers of one stage. slots: tasks that may be under way."""

    slots: int

    def start(self, task: Task) -> None: ...

    def finished(self) -> Iterator[Tried]:
        """Waits for one of the tasks under way, TICK seconds at most, and gives those that have ended."""

    def close(self) -> None:
        """Ends the workers; what is under way is lost."""


def run_stage(
    stage: Stage, library: Library, tasks: Iterable[Task], settings: EngineSettings
) -> Iterator[Outcome | None]:
    """The outcome of each task, in the order of their ends; None now and then, so that what has ended can be written
    while others take long. Raises InputError if workers cannot be opened, or too many items fail."""
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
            yield None
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
                few = _FEW if failed == ended else _MANY
                if ended >= few and failed > settings.max_failed * ended:
                    raise InputError(
                        f"stage {stage.name}: {failed} of {ended} items failed, more than max_failed="
                        f"{settings.max_failed:g}, the last: {tried.told}. What is done is kept; --retry failed does "
                        "these again"
                    )


class Opened:
    """A stage's worker, opened with the first task. For engines, in a worker's process."""

    def __init__(self, stage: Stage, library: Library):
        self._stage, self._library = stage, library
        self._worker: Worker | None = None

    def work(self, task: Task) -> tuple[str, Any, float]:
        """Of one attempt: kind, what is told, seconds; the rest of a Tried."""
        since = time.perf_counter()
        if self._worker is None:
            try:
                self._worker = self._stage.open(self._library)
            except Exception as error:
                return "closed", _said(error), time.perf_counter() - since
        since = time.perf_counter()
        try:
            kind, told = "done", tuple(self._worker(task.given))
        except InputError as error:
            kind, told = "rejected", str(error)
        except Exception as error:
            kind, told = "failed", _said(error)
        return kind, told, time.perf_counter() - since


def _said(error: Exception) -> str:
    """One line of an error, with where it was raised unless it is the user's to mend."""
    if isinstance(error, InputError):
        return str(error)
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({pathlib.Path(where.filename).name}:{where.lineno})"


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
