"""The command behind sample.py and lcv-sample: text, image and video continuation to video files."""

import logging
import os
import sys
from collections.abc import Sequence

import tyro

from lcv_jax.errors import InputError
from lcv_jax.sample.tasks import Task

# Documented names of what is not built yet: refused by name instead of as a typing error.
_LATER_TASKS = ("long", "interactive")
_LATER_OPTIONS = ("--mesh", "--coordinator", "--resume")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; exits with 2 and one line on bad input."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    args = sys.argv[1:] if args is None else args
    try:
        _refuse_later(args)
        task = tyro.cli(Task, prog="sample.py", description=__doc__, args=args)
        from lcv_jax.sample import run  # here, because JAX takes its time, so that --help answers at once

        run.run(task)
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted, nothing half-written is left", 130))


def _refuse_later(args: Sequence[str]) -> None:
    names = [arg.partition("=")[0] for arg in args]
    for name in (*(n for n in names[:1] if n in _LATER_TASKS), *(n for n in names if n in _LATER_OPTIONS)):
        raise InputError(f"{name} is not available yet: t2v, i2v, vc and refine on one device are")


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
