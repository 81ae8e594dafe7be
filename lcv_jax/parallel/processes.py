"""Several processes as one run: joining, agreeing on errors, sharing what one of them knows, ending together.

Every process runs the same program on its own devices; the mesh spans them all. Process 0 alone writes files and
talks. Used by commands: a library user who calls jax.distributed.initialize needs nothing from here.
"""

import contextlib
import io
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from lcv_jax.errors import InputError
from lcv_jax.parallel import lifelines
from lcv_jax.parallel.lifelines import Lifelines

AUTO = "auto"
_HEARTBEAT = 40  # seconds; of JAX's own, for what the lifelines cannot see, such as a stopped process
# XLA's CPU client has a thread for each core, and every collective of every program that was started holds one while it
# waits. With a few cores, programs of two local devices took them all and waited for one another for ever.
_CPU_THREADS = 64
_MEETING = 15  # seconds to meet at an address, of those that are running already
_DAY = 24 * 3600  # a process that is done waits for others that still write
_NOTICE = 1.0  # seconds after which the lifelines have told who is gone, when a collective has failed


@contextlib.contextmanager
def joined(coordinator: str | None, num_processes: int | None, process_id: int | None, **how: Any) -> Iterator[None]:
    """Around all that a command does: takes what `start` takes, coordinator None for a process that is alone.

    Ends when all are done. What one process raises makes the others end. Who catches it calls `leave` afterwards.
    """
    if coordinator is None:
        for name, value in (("number of processes", num_processes), ("process id", process_id)):
            if value is not None:
                raise InputError(f"{name} {value} without a coordinator: give both, or none for a single process")
        yield
        return
    lines = start(coordinator, num_processes, process_id, **how)
    try:
        yield
        barrier("done")
    except BaseException as error:
        if not isinstance(error, InputError | KeyboardInterrupt):
            time.sleep(_NOTICE)
        lines.failed(2 if isinstance(error, InputError) else 1)
        raise
    lines.finished()


def leave(code: int) -> NoReturn:
    """Ends this process after an error, among several at once: JAX would wait for the others at its exit."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def start(
    coordinator: str,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    sigterm: Literal["ends", "is noticed"] = "ends",
    timeout: int = 300,
) -> Lifelines:
    """Joins the other processes; to be called before any device is used.

    coordinator: HOST:PORT of process 0, which all others reach, with the number of processes and this one's id; or
    "auto", what JAX finds out itself under Slurm, Kubernetes, Open MPI and on TPU pods. sigterm: what it does to this
    process; noticed is what training wants, jax.experimental.multihost_utils.reached_preemption_sync_point then tells.
    timeout: in seconds, for all to come. From now on this process ends when another one does before its time.

    Raises InputError for settings that are wrong or missing, and if not all come in time.
    """
    if coordinator == AUTO:
        _configure(sigterm)
        lines = _detected(num_processes, process_id, timeout)
    else:
        host, port = _address(coordinator)
        count, process = _place(coordinator, num_processes, process_id)
        if process == 0:
            lines = lifelines.gather(port, count, timeout)
        else:
            lines = lifelines.reach(host, port, process, count, timeout)
        _configure(sigterm)
        _initialize(timeout, coordinator_address=coordinator, num_processes=count, process_id=process)
    lines.watch()
    return lines


def _configure(sigterm: str) -> None:
    jax.config.update("jax_enable_preemption_service", sigterm == "is noticed")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    os.environ.setdefault("PJRT_NPROC", str(_CPU_THREADS))


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"coordinator {coordinator!r}: expected HOST:PORT, where process 0 runs, or {AUTO}")
    return host.strip("[]"), int(port)


def _place(coordinator: str, num_processes: int | None, process_id: int | None) -> tuple[int, int]:
    if num_processes is None or process_id is None:
        missing = "number of processes" if num_processes is None else "process id"
        raise InputError(
            f"coordinator {coordinator} without the {missing}: give it (--num-processes N --process-id I), or "
            f"coordinator {AUTO} where Slurm, Kubernetes or Open MPI started the processes"
        )
    if num_processes < 1:
        raise InputError(f"{num_processes} processes: expected at least 1")
    if not 0 <= process_id < num_processes:
        raise InputError(f"process id {process_id} of {num_processes} processes: expected 0 to {num_processes - 1}")
    return num_processes, process_id


def _detected(num_processes: int | None, process_id: int | None, timeout: int) -> Lifelines:
    """Joins as JAX finds out; the lifelines come afterwards, over an address that process 0 shares."""
    try:
        _initialize(timeout, num_processes=num_processes, process_id=process_id)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        raise InputError(
            f"coordinator {AUTO}: JAX knows no such cluster here ({error}): expected processes started by Slurm, "
            "Kubernetes or Open MPI, or on a TPU pod; else give HOST:PORT with the number of processes and the id"
        ) from None
    with socket.create_server(("", 0)) as free:
        port = free.getsockname()[1]
    port, *hosts = shared(" ".join([str(port), *_own_addresses()]).encode()).decode().split()
    if is_main():
        return lifelines.gather(int(port), count(), timeout=_MEETING * len(hosts))
    for host in hosts[:-1]:
        with contextlib.suppress(InputError):
            return lifelines.reach(host, int(port), index(), count(), _MEETING)
    return lifelines.reach(hosts[-1], int(port), index(), count(), _MEETING)


def _own_addresses() -> list[str]:
    """By which others may reach this machine: of its way out, its name, and for those on the same machine."""
    found = [socket.gethostname(), "localhost"]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way_out:
        way_out.connect(("192.0.2.1", 9))  # sends nothing; the network of this address is for examples
        found.insert(0, way_out.getsockname()[0])
    return found


def _initialize(timeout: int, **given: object) -> None:
    jax.distributed.initialize(
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=_HEARTBEAT,
        shutdown_timeout_seconds=_DAY,
        **given,
    )


def count() -> int:
    """Of processes."""
    return jax.process_count()


def index() -> int:
    """Of this process."""
    return jax.process_index()


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return jax.process_index() == 0


def shared(value: bytes) -> bytes:
    """Process 0's value, in every process; the others' are not looked at. All must call it."""
    if jax.process_count() == 1:
        return value
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(value))))
    held = np.frombuffer(value, np.uint8) if is_main() else np.zeros(length, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(held)).astype(np.uint8).tobytes()


def shared_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Process 0's arrays by name, in every process."""
    held = io.BytesIO()
    np.savez(held, **arrays)
    with np.load(io.BytesIO(shared(held.getvalue())), allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded}


def barrier(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Around checks: an InputError in one process ends the block with an InputError in all, at its end.

    The block may not exchange anything among processes.
    """
    problem: InputError | None = None
    try:
        yield
    except InputError as error:
        problem = error
    if jax.process_count() > 1:
        refused = multihost_utils.process_allgather(np.int32(problem is not None))
        if problem is None and refused.any():
            raise InputError(f"process {int(refused.argmax())} of {len(refused)} cannot go on; its own output says why")
    if problem is not None:
        raise problem
