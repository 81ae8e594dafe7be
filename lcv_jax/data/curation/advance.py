"""Doing what is still to be done of a stage."""

import contextlib
import time
from collections.abc import Iterator, Sequence

import tqdm

from lcv_jax.data.curation.engines import EngineSettings, run_stage, told
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Outcome, Stage, Status, Task
from lcv_jax.errors import InputError

_PART, _PART_SECONDS = 256, 10.0
"""Of a part the most items, and the seconds in which they end: what is lost by who is killed."""


def advance(stage: Stage, library: Library, engine: EngineSettings, again: Sequence[Status] = ()) -> None:
    """Does the items of a stage that have no outcome yet, and those whose outcome is one of `again`; writes parts as
    they end. Raises InputError if the stage cannot work, or too many items fail; what is done is kept."""
    table = library.table(stage.name)
    table.sweep()
    ended = {row["id"] for row in table.outcomes().to_pylist() if row["status"] not in again}
    tasks = [task for task in stage.tasks(library) if task.id not in ended]
    _check_ids(stage, tasks)
    if not tasks:
        return
    stage.check()
    outcomes = run_stage(stage, library, tasks, engine)
    with tqdm.tqdm(desc=stage.name, total=len(tasks), unit=" items", disable=None) as bar, contextlib.closing(outcomes):
        for part in _parts(outcomes):
            table.write((row for outcome in part for row in outcome.rows), map(told, part))
            bar.update(len(part))


def _parts(outcomes: Iterator[Outcome | None]) -> Iterator[list[Outcome]]:
    """Outcomes together, as many as come in some seconds; what is there is given even if the next raises."""
    part, since = [], time.monotonic()
    try:
        for outcome in outcomes:
            part += [outcome] if outcome else []
            if part and (len(part) == _PART or time.monotonic() - since > _PART_SECONDS):
                yield part
                part, since = [], time.monotonic()
    except (InputError, KeyboardInterrupt):
        if part:
            yield part
        raise
    if part:
        yield part


def _check_ids(stage: Stage, tasks: Sequence[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.id in seen:
            raise ValueError(f"stage {stage.name}: item {task.id!r} twice")
        seen.add(task.id)
