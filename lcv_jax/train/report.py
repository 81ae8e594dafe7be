"""Where a run's numbers go: metrics.jsonl, TensorBoard, and Weights & Biases where it is installed and asked for."""

import collections
import importlib.util
import os
import pathlib
import time
from typing import Any

from lcv_jax.errors import InputError
from lcv_jax.train.board import Board
from lcv_jax.train.metrics import MetricsFile
from lcv_jax.train.programs import Work

TENSORBOARD = "tensorboard"


class Report:
    """What the loop writes lines to; adds throughput, the share of the peak, and damaged records.

    tokens_per_second: of videos, all devices. tflops: 10^12 products a second of one device, executed, recomputation
    included. mfu: that over the device's peak, where it is known.
    """

    def __init__(
        self,
        run: os.PathLike[str] | str,
        after: int,
        done: collections.deque[Work],
        damaged: collections.deque[int],
        peak: float | None = None,
        wandb: str | None = None,
    ):
        """after: the step the run continues from. done: what each step was; taken out as it is written. damaged:
        records that were, after each step. peak: FLOP/s. wandb: name of the project."""
        self._file = MetricsFile(run, after)
        self._board = Board(pathlib.Path(run) / TENSORBOARD, after)
        self._wandb = None if wandb is None else _wandb(wandb, run)
        self._done, self._damaged, self._peak, self._at = done, damaged, peak, after

    def write(self, step: int, record: dict[str, Any]) -> None:
        """A line of the steps since the last one. record: means; "seconds" of a step."""
        steps = step - self._at
        done = [self._done.popleft() for _ in range(steps)]
        seconds = max(steps * record["seconds"], 1e-9)
        speed = sum(work.flops for work in done) / seconds
        record |= {
            "damaged": [self._damaged.popleft() for _ in range(steps)][-1],
            "tokens_per_second": round(sum(work.tokens for work in done) / seconds, 1),
            "tflops": round(speed / 1e12, 4),
        }
        if self._peak is not None:
            record["mfu"] = round(speed / self._peak, 4)
        self._file.write(step, record)
        scalars = {name: value for name, value in _scalars(record).items() if value is not None}
        self._board.write(step, time.time(), {name.replace(" ", "_"): value for name, value in scalars.items()})
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)
        self._at = step

    def close(self) -> None:
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _scalars(record: dict[str, Any]) -> dict[str, float | None]:
    """With lists by noise level as one number for each part of [0, 1]."""
    flat: dict[str, float | None] = {}
    for name, value in record.items():
        if isinstance(value, list):
            flat |= {f"{name}/{i / len(value):.2f}": each for i, each in enumerate(value)}
        else:
            flat[name] = value
    return flat


def check_wandb() -> None:
    """Raises InputError unless the package is there."""
    if importlib.util.find_spec("wandb") is None:
        raise InputError("--wandb: the package wandb is not installed: pip install wandb, or leave the option out")


def _wandb(project: str, run: os.PathLike[str] | str) -> Any:
    check_wandb()
    import wandb

    return wandb.init(project=project, name=pathlib.Path(run).name, dir=str(run), resume="allow")
