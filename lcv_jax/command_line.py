"""Command lines: what tyro reads into dataclasses, with every mistake told in one line; and recipes, Python files that
give such a dataclass."""

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tyro

from lcv_jax.errors import InputError


def parse(form: Any, args: Sequence[str] | None, **how: Any) -> Any:
    """An object of `form`, a dataclass or a union of some, from arguments, by default the process's own.

    how: what `tyro.cli` takes. --help prints and exits with 0. Raises InputError with one line on what does not parse.
    """
    with one_line():
        return tyro.cli(form, args=args, **how)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """What tyro draws a box around as the line of an InputError."""
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            yield
    except SystemExit as end:
        if not end.code:
            raise
        raise InputError(" ".join(re.sub(r"[\u2500-\u257f]", " ", drawn.getvalue()).split())) from None


def status(command: Callable[[], int | None], interrupted: str) -> int:
    """Runs a command and returns its exit status: its own, 0 where it returns None; 2 after one line about bad input,
    130 after one about Ctrl-C. interrupted: what that leaves behind.
    """
    try:
        return command() or 0
    except InputError as error:
        message, code = str(error), 2
    except KeyboardInterrupt:
        message, code = f"interrupted; {interrupted}", 130
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def run_recipe(path: os.PathLike[str] | str) -> tuple[Any, str]:
    """Runs a recipe, a Python file with a function `config()`; returns what that gives and the file's docstring."""
    path = pathlib.Path(path)
    if path.suffix != ".py" or not path.is_file():
        raise InputError(f"{path}: no such recipe: expected a Python file such as configs/toy.py")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made = module.config()
    except InputError:
        raise
    except Exception as error:  # a recipe is a program, and may do anything wrong
        raise InputError(f"{path}: cannot be run ({type(error).__name__}: {error})") from error
    return made, (module.__doc__ or "").strip()
