"""The pool of processes on this machine.

Each process has a pipe of its own and one task at a time, so that it is known which task a dead or hanging one was at,
and nothing is shared that a dying one could leave locked. (Pools with one queue for all, such as pebble's, hold a lock
while they take a task: a process killed then stops the others for good.) A process ends with its parent, however that
ends, and what it kept in the folder for temporary files goes with it.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.resource_tracker
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator

from lcv_jax.data.curation.engines import QUIET_THREADS, TICK, EngineSettings, Opened, Tried
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Stage, Task

_PATIENCE = 5.0
"""Seconds that an idle process has to end by itself."""


class LocalPool:
    """Backend of processes."""

    def __init__(self, stage: Stage, library: Library, settings: EngineSettings):
        self.slots = settings.workers
        self._given, self._settings = (stage, library), settings
        self._idle: list[_Process] = []
        self._busy: list[_Process] = []

    def start(self, task: Task) -> None:
        process = self._idle.pop() if self._idle else _Process(*self._given)
        self._busy.append(process)
        process.begin(task)

    def finished(self) -> Iterator[Tried]:
        timeout = self._settings.timeout_s
        latest = min(process.since for process in self._busy) + timeout
        pipes = [process.pipe for process in self._busy]
        multiprocessing.connection.wait(pipes, min(TICK, max(0.0, latest - time.monotonic())))
        for process in [*self._busy]:
            if process.pipe.poll():
                tried = process.result()
            elif time.monotonic() - process.since >= timeout:
                tried = Tried(process.task, "failed", f"took longer than {timeout:g} seconds", timeout)
                process.kill()
            else:
                continue
            self._busy.remove(process)
            if process.alive and process.taken == self._settings.items:
                process.end()
            if process.alive:
                self._idle.append(process)
            yield tried

    def close(self) -> None:
        for process in self._busy:
            process.kill()
        for process in self._idle:
            process.end()


class _Process:
    """A worker's process. task: what it is at, since: when it got that. taken: how many tasks it got."""

    def __init__(self, stage: Stage, library: Library):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.alive, self.taken = True, 0
        self.task: Task | None = None
        self.since = 0.0
        self._scratch = tempfile.mkdtemp(prefix="lcv-")
        self._process = context.Process(target=_serve, args=(theirs, stage, library, self._scratch), daemon=True)
        with _starting({**QUIET_THREADS, **os.environ, "TMPDIR": self._scratch}):
            self._process.start()
        theirs.close()

    def begin(self, task: Task) -> None:
        self.task, self.since, self.taken = task, time.monotonic(), self.taken + 1
        with contextlib.suppress(BrokenPipeError):  # it died while it was idle: `result` tells
            self.pipe.send(task)

    def result(self) -> Tried:
        """Of its task, once the pipe has something to say."""
        try:
            return Tried(self.task, *self.pipe.recv())
        except (EOFError, ConnectionResetError):
            self._process.join(_PATIENCE)
            code = self._process.exitcode
            self.kill()
            return Tried(self.task, "failed", f"its process died ({_ending(code)})", time.monotonic() - self.since)

    def end(self) -> None:
        """Lets it end by itself, as what it uses may want to be closed."""
        self.pipe.close()
        self._process.join(_PATIENCE)
        self.kill()

    def kill(self) -> None:
        self.alive = False
        self.pipe.close()
        self._process.kill()
        self._process.join()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _serve(pipe: multiprocessing.connection.Connection, stage: Stage, library: Library, scratch: str) -> None:
    """All that a process does. daemon threads end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    threading.Thread(target=_end_with_parent, args=(scratch,), daemon=True).start()
    opened = Opened(stage, library)
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        pipe.send(opened.work(task))


def _end_with_parent(scratch: str) -> None:
    """A parent that was killed leaves nobody behind, not even at a task of an hour."""
    multiprocessing.parent_process().join()
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(1)


@contextlib.contextmanager
def _starting(environment: dict[str, str]) -> Iterator[None]:
    """The environment, and no Ctrl-C, for a process that starts in the block. Spawned processes inherit both, and it is
    too late for them to set either: numpy is imported, and counts the cores, before the first line of theirs runs."""
    multiprocessing.resource_tracker.ensure_running()  # its start would let Ctrl-C through
    before = dict(os.environ)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(environment)
    try:
        yield
    finally:
        for name in environment.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _ending(code: int | None) -> str:
    if code is None:
        return "no exit status"
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"
