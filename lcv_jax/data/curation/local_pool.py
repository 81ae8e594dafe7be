"""The pool of processes on this machine (pebble, which tells which task a dead or hanging process was at)."""

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Iterator

from lcv_jax.data.curation.engines import QUIET_THREADS, EngineSettings, Tried, work
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Stage, Task, Worker
from lcv_jax.errors import InputError

_opened: dict[str, Worker | str] = {}  # this process's worker, by stage, or why there is none


class LocalPool:
    """Backend of processes."""

    def __init__(self, stage: Stage, library: Library, settings: EngineSettings):
        try:
            import pebble
        except ImportError as error:
            raise InputError(f"curation needs pebble ({error}); install it: pip install 'lcv_jax[curate]'") from error
        self.slots = 2 * settings.workers
        self._stage, self._library, self._timeout = stage, library, settings.timeout_s
        self._pool = pebble.ProcessPool(
            settings.workers,
            max_tasks=settings.items,
            initializer=_begin,
            context=multiprocessing.get_context("spawn"),
        )
        self._expired = pebble.ProcessExpired
        self._futures: dict[concurrent.futures.Future, Task] = {}

    def start(self, task: Task) -> None:
        future = self._pool.schedule(_run, args=(self._stage, self._library, task), timeout=self._timeout)
        self._futures[future] = task

    def finished(self) -> Iterator[Tried]:
        done, _ = concurrent.futures.wait(self._futures, return_when=concurrent.futures.FIRST_COMPLETED)
        for future in done:
            task = self._futures.pop(future)
            try:
                yield Tried(task, *future.result())
            except concurrent.futures.TimeoutError:
                yield Tried(task, "failed", f"took longer than {self._timeout:g} seconds", self._timeout)
            except self._expired as error:
                yield Tried(task, "failed", f"its process died ({_ending(error.exitcode)})", 0.0)

    def close(self) -> None:
        self._pool.stop()
        self._pool.join()


def _begin() -> None:
    """In a new process, before anything with threads is imported."""
    os.environ.update(QUIET_THREADS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer


def _run(stage: Stage, library: Library, task: Task) -> tuple[str, object, float]:
    if stage.name not in _opened:
        try:
            _opened[stage.name] = stage.open(library)
        except InputError as error:
            _opened[stage.name] = str(error)
    worker = _opened[stage.name]
    return ("closed", worker, 0.0) if isinstance(worker, str) else work(worker, task)


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
