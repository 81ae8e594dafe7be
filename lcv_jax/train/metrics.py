"""The numbers of a run, one JSON object a line, in the file metrics.jsonl."""

import json
import math
import os
import pathlib
from typing import Any

import numpy as np

from lcv_jax.data.files import replacing, unwritable
from lcv_jax.errors import InputError
from lcv_jax.objectives.objective import Average, Metrics

FILE = "metrics.jsonl"


def values(metrics: Metrics) -> dict[str, Any]:
    """Means as numbers or lists of JSON; null where nothing was counted or the mean is not finite."""
    return {name: _plain(average) for name, average in sorted(metrics.items())}


def _plain(average: Average) -> Any:
    count = np.asarray(average.count, np.float64)
    means = np.divide(average.total, count, out=np.full(count.shape, np.nan), where=count > 0)
    numbers = [float(mean) if math.isfinite(mean) else None for mean in means.reshape(-1)]
    return numbers if means.ndim else numbers[0]


class MetricsFile:
    """Appends lines to metrics.jsonl in a run's folder. after: the step that the run continues from; later lines, of
    steps that will be taken again, are removed first."""

    def __init__(self, run: os.PathLike[str] | str, after: int):
        self.path = pathlib.Path(run) / FILE
        kept = [line for number, line in self._lines() if self._step(number, line) <= after]
        with replacing(self.path) as aside:
            aside.write_text("".join(line + "\n" for line in kept))

    def write(self, step: int, record: dict[str, Any]) -> None:
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step} | record) + "\n")
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _lines(self) -> list[tuple[int, str]]:
        """Numbered whole lines; what a killed run left of one is not among them."""
        if not self.path.exists():
            return []
        *whole, _ = self.path.read_text().split("\n")
        return list(enumerate(whole, 1))

    def _step(self, number: int, line: str) -> int:
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.path}, line {number}: expected a JSON object with a step; move the file away to continue"
            ) from None
