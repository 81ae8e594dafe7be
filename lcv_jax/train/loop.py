"""The loop around the step: metrics, checkpoints, a checkpoint before the machine is taken away, resuming."""

import contextlib
import dataclasses
import enum
import signal
import threading
import time
from collections.abc import Callable, Iterator

import jax
from jax.experimental import multihost_utils

from lcv_jax.errors import InputError
from lcv_jax.objectives.objective import Metrics, Trees
from lcv_jax.train.batches import Batches
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.metrics import MetricsFile, values
from lcv_jax.train.state import TrainState
from lcv_jax.train.step import Step


@dataclasses.dataclass(frozen=True)
class Schedule:
    """steps: of the whole run, those before a resumption included. save_every, log_every: in steps; the last step is
    saved in any case."""

    steps: int
    save_every: int = 1000
    log_every: int = 10

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise InputError(f"training schedule, {field.name}={getattr(self, field.name)}: expected at least 1")


class End(enum.StrEnum):
    """Why `run` returned."""

    FINISHED = "finished"
    PREEMPTED = "preempted"


def resume(checkpoints: Checkpoints, abstract: TrainState, batches: Batches) -> TrainState | None:
    """The state of the newest checkpoint, and `batches` set to where it stood; None in a new run.

    abstract: shapes and shardings (state.abstract_state), which may be those of another mesh than the saved ones.
    """
    if checkpoints.newest is None:
        return None
    restored = checkpoints.restore(abstract)
    batches.set_state(dict(restored.data))
    return restored.state


def run(
    step: Step,
    state: TrainState,
    given: Trees,
    batches: Batches,
    checkpoints: Checkpoints,
    metrics: MetricsFile | None,
    schedule: Schedule,
    after: Callable[[int, TrainState], None] | None = None,
) -> tuple[TrainState, End]:
    """Takes steps until schedule.steps, or until the machine is to be taken away (SIGTERM); then the state is saved.

    step: jitted; it may donate the state. given: the trees that are not trained. metrics: None on every process but
    the first. With several processes a SIGTERM to one of them ends all after the same step. after: called with the
    number and the state after every step, to sample from, say; it may not keep the state.

    Raises InputError at the first loss or gradient that is not finite. Steps are not waited for: their numbers are
    read while the next one runs, which is safe because such a step leaves the state as it was.
    """
    window = _Window(metrics, schedule.log_every)
    at, end = int(state.step), End.FINISHED
    with _preemption() as preempted:
        while at < schedule.steps:
            state, measured = step(state, next(batches), given)
            at += 1
            window.add(at, measured)
            leaving = preempted(at)
            if leaving or at % schedule.save_every == 0 or at == schedule.steps:
                window.settle()
                checkpoints.save(at, state, batches.get_state())
            if after is not None:
                after(at, state)
            if leaving and at < schedule.steps:
                end = End.PREEMPTED
                break
        window.close(at)
        checkpoints.wait()
    return state, end


@contextlib.contextmanager
def _preemption() -> Iterator[Callable[[int], bool]]:
    """Yields what tells, called after every step with its number, whether to save and leave.

    Several processes agree on the step through JAX's coordination service, which catches SIGTERM itself.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        raise InputError("training outside the main thread: expected it in the main one, which alone can catch SIGTERM")
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        yield lambda _: asked.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)


class _Window:
    """Numbers of the steps since the last line of the metrics file. The newest step's stay on the device until the
    next one has been started."""

    def __init__(self, file: MetricsFile | None, log_every: int):
        self._file = file
        self._log_every = log_every
        self._running: tuple[int, Metrics] | None = None
        self._sum: Metrics | None = None
        self._steps = 0
        self._since = time.perf_counter()

    def add(self, at: int, metrics: Metrics) -> None:
        """Takes in the step that was just started, and reads the one before."""
        self.settle()
        self._running = at, metrics

    def settle(self) -> None:
        """Waits for the newest step; raises InputError if it was not finite."""
        if self._running is None:
            return
        at, metrics = self._running[0], jax.device_get(self._running[1])
        self._running = None
        if not metrics["finite"].value:
            shown = ", ".join(f"{name} {values(metrics)[name]}" for name in ("loss", "grad_norm") if name in metrics)
            raise InputError(
                f"step {at}: the loss or its gradient is not finite ({shown}, null for NaN or infinity): expected "
                "numbers; look at this step's batch, or lower the rate. The checkpoints are from before it"
            )
        self._sum = metrics if self._sum is None else {name: self._sum[name] + metrics[name] for name in metrics}
        self._steps += 1
        if at % self._log_every == 0:
            self._write(at)

    def close(self, at: int) -> None:
        """Writes what a last line has not been written for."""
        if self._steps:
            self._write(at)

    def _write(self, at: int) -> None:
        now = time.perf_counter()
        if self._file is not None:
            # A step that has waited for itself has told its own time.
            self._file.write(at, {"seconds": round((now - self._since) / self._steps, 4)} | values(self._sum))
        self._sum, self._steps, self._since = None, 0, now
