"""The command behind sample.py and lcv-sample: text, image and video continuation to video files."""

import logging
import os
import sys
from collections.abc import Sequence

import tyro

from lcv_jax.errors import InputError
from lcv_jax.sample import long_tasks, tasks

# Documented names of what is not built yet: refused by name instead of as a typing error.
_LATER_OPTIONS = ("--mesh", "--coordinator")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; exits with 2 and one line on bad input."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    args = sys.argv[1:] if args is None else args
    try:
        _refuse_later(args)
        task = tyro.cli(tasks.Task | long_tasks.Task, prog="sample.py", description=__doc__, args=args)
        from lcv_jax.sample import run, run_long  # here, as JAX takes its time, so that --help answers at once

        run_long.make(task) if isinstance(task, long_tasks.InSegments) else run.run(task)
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted, nothing half-written is left", 130))


def _refuse_later(args: Sequence[str]) -> None:
    for name in (arg.partition("=")[0] for arg in args):
        if name in _LATER_OPTIONS:
            raise InputError(f"{name} is not available yet: every task runs on one device")


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
