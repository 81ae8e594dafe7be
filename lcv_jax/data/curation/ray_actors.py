"""The same stages on Ray: an actor for each worker, one task at a time.

Of Ray only the core is used: actors that it places, and whose death and results it tells one by one. It restarts none
and tries nothing again itself; what becomes of a task is decided where it is for the pool of processes.
"""

import collections
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from lcv_jax.data.curation.engines import QUIET_THREADS, TICK, EngineSettings, Opened, Tried
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Stage, Task
from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

_PATIENCE = 60.0
"""Seconds for a cluster to answer, and without any actor after which it is said that it gives none."""


class RayActors:
    """Backend of actors, each with one CPU of the cluster and the GPUs that the settings say. The library's folder must
    be one that all its machines see.

    Without an address it starts Ray on this machine, and ends it; with one, this package is to be installed on all
    machines. Raises InputError where Ray is missing, or the
    cluster does not answer.
    """

    def __init__(self, stage: Stage, library: Library, settings: EngineSettings):
        try:
            import ray
        except ImportError as error:
            raise InputError(f"--engine.kind ray needs Ray ({error}): pip install 'lcv_jax[cluster]'") from error
        self.slots = settings.workers
        self._ray, self._given, self._settings = ray, (stage, library), settings
        self._began = not ray.is_initialized()
        if self._began:
            _connect(ray, settings)
        variables = dict(QUIET_THREADS)
        if self._began and settings.address is None:  # what can be imported here can be there
            variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        limits = {"num_cpus": 1, "num_gpus": settings.gpus, "max_restarts": 0, "max_task_retries": 0}
        self._remote = ray.remote(**limits, runtime_env={"env_vars": variables})(Opened)
        self._waiting: collections.deque[Task] = collections.deque()
        self._coming: dict[Any, _Actor] = {}  # by the reference that is there once they live
        self._idle: list[_Actor] = []
        self._busy: dict[Any, _Actor] = {}  # by the reference of their result
        self._since = time.monotonic()

    def start(self, task: Task) -> None:
        self._waiting.append(task)
        while len(self._coming) + len(self._idle) + len(self._busy) < len(self._waiting) + len(self._busy):
            actor = _Actor(self._remote.remote(*self._given))
            self._coming[actor.handle.__ray_ready__.remote()] = actor

    def finished(self) -> Iterator[Tried]:
        self._hand_out()
        timeout = self._settings.timeout_s
        latest = min((actor.since for actor in self._busy.values()), default=time.monotonic()) + timeout
        references = [*self._busy, *self._coming]
        ready, _ = self._ray.wait(references, timeout=min(TICK, max(0.0, latest - time.monotonic())))
        for reference in ready:
            if reference in self._coming:
                yield from self._begun(self._coming.pop(reference), reference)
        ready, _ = self._ray.wait([*self._busy], num_returns=len(self._busy), timeout=0) if self._busy else ([], [])
        for reference, actor in [*self._busy.items()]:
            overdue = time.monotonic() - actor.since >= timeout
            if reference not in ready and not overdue:
                continue
            del self._busy[reference]
            yield self._result(reference, actor) if reference in ready else self._stopped(actor)

    def close(self) -> None:
        for actor in (*self._idle, *self._coming.values(), *self._busy.values()):
            self._ray.kill(actor.handle)
        if self._began:
            self._ray.shutdown()

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            actor = self._idle.pop()
            actor.task, actor.since = self._waiting.popleft(), time.monotonic()
            actor.taken += 1
            self._busy[actor.handle.work.remote(actor.task)] = actor
        if self._busy:
            self._since = time.monotonic()
        elif time.monotonic() - self._since > _PATIENCE:
            logger.warning("Ray has had no CPU for a worker of this stage for %.0f seconds", _PATIENCE)
            self._since = time.monotonic()

    def _begun(self, actor: "_Actor", reference: Any) -> Iterator[Tried]:
        try:
            self._ray.get(reference)
        except self._ray.exceptions.RayError as error:  # it never lived: the next task's attempt
            if self._waiting:
                yield Tried(self._waiting.popleft(), "failed", f"its actor did not begin: {_line(error)}", 0.0)
            return
        self._idle.append(actor)

    def _result(self, reference: Any, actor: "_Actor") -> Tried:
        try:
            told = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            return Tried(actor.task, "failed", f"its actor died: {_line(error)}", time.monotonic() - actor.since)
        if actor.taken == self._settings.items:
            self._ray.kill(actor.handle)
        else:
            self._idle.append(actor)
        return Tried(actor.task, *told)

    def _stopped(self, actor: "_Actor") -> Tried:
        self._ray.kill(actor.handle)
        seconds = self._settings.timeout_s
        return Tried(actor.task, "failed", f"took longer than {seconds:g} seconds", seconds)


class _Actor:
    """task: what it is at, since: when it got that. taken: how many tasks it got."""

    def __init__(self, handle: Any):
        self.handle = handle
        self.task: Task | None = None
        self.since, self.taken = 0.0, 0


def _connect(ray: Any, settings: EngineSettings) -> None:
    how = {"logging_level": logging.ERROR, "log_to_driver": False}
    if settings.address is None:
        ray.init(address="local", num_cpus=settings.workers, include_dashboard=False, **how)
        return
    host, _, port = settings.address.removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would go on trying for minutes
            socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
        ray.init(address=settings.address, **how)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--engine.address {settings.address}: no cluster of Ray answers ({_line(error)}); start one with ray start"
        ) from error


def _line(error: Exception) -> str:
    """What Ray says in many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}, {lines[-1] if lines else ''}"
