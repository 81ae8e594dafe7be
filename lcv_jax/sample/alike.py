"""Whether all processes of a run were asked for the same: one that was not would spoil everyone's numbers, silently."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.parallel import processes
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.tasks import Common

# Options that may differ from machine to machine, as every path may: what was read from inputs is itself compared.
_OWN = ("checkpoint", "lora", "compile_cache", "coordinator", "process_id")


def check(task: Common, jobs: Sequence[Job], inputs: Mapping[str, Any]) -> None:
    """Raises InputError in all processes unless they have the same options, prompts, seeds and inputs as process 0.

    inputs: frames or pictures by name.
    """
    if processes.count() == 1:
        return
    mine = json.dumps(_asked(task, jobs, inputs))
    theirs, mine = json.loads(processes.shared(mine.encode())), json.loads(mine)
    with processes.agreed():
        for name in sorted(theirs.keys() | mine.keys()):
            if theirs.get(name) != mine.get(name):
                here, there = mine.get(name), theirs.get(name)
                raise InputError(
                    f"{name} is {here!r} for process {processes.index()} and {there!r} for process 0: start all "
                    "processes with the same options and inputs"
                )


def _asked(task: Common, jobs: Sequence[Job], inputs: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        f"--{name.replace('_', '-')}": value
        for name, value in dataclasses.asdict(task).items()
        if name not in _OWN and not isinstance(value, pathlib.Path)
    }
    each = {f"video {i}": [job.prompt, job.negative_prompt, job.seed] for i, job in enumerate(jobs)}
    return options | each | {f"the {name}": _digest(np.asarray(value)) for name, value in inputs.items()}


def _digest(value: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()
    return f"{value.dtype} {value.shape} {digest[:12]}"
