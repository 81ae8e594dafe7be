"""The command behind sample.py and lcv-sample: text, image and video continuation to video files."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from lcv_jax.command_line import parse
from lcv_jax.errors import InputError
from lcv_jax.sample import long_tasks, tasks


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; exits with 2 and one line on bad input."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    task = None
    try:
        task = parse(tasks.Task | long_tasks.Task, args, prog="sample.py", description=__doc__)
        _run(task)
    except InputError as error:
        _leave(task, _fail(str(error), 2))
    except KeyboardInterrupt:
        _leave(task, _fail("interrupted, nothing half-written is left", 130))
    except Exception:
        if task is None or task.coordinator is None:
            raise
        traceback.print_exc()
        _leave(task, 1)


def _run(task: tasks.Common) -> None:
    # Here, as JAX takes its time, so that --help answers at once.
    from lcv_jax.parallel import processes
    from lcv_jax.sample import run, run_long

    if task.coordinator is not None and task.mesh is None:
        raise InputError("--coordinator without --mesh: say how all processes' devices share the work: --mesh fsdp=-1")
    with processes.joined(task.coordinator, task.num_processes, task.process_id):
        if not processes.is_main():
            logging.getLogger("lcv_jax").setLevel(logging.ERROR)
        run_long.make(task) if isinstance(task, long_tasks.InSegments) else run.run(task)


def _leave(task: tasks.Common | None, code: int) -> NoReturn:
    if task is None or task.coordinator is None:
        sys.exit(code)
    from lcv_jax.parallel import processes

    processes.leave(code)


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
