"""Folders that appear whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from lcv_jax.errors import InputError


@contextlib.contextmanager
def appearing(dst: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder beside `dst` that becomes `dst` when the block ends well, and is removed when it does not.

    Missing folders above are made. Who is killed half-way leaves NAME.tmp-PID, never `dst`. Raises InputError where
    there is something already, or the system refuses to write.
    """
    if dst.exists():
        raise InputError(f"{dst}: exists already: expected a new folder; choose another or delete it first")
    aside = dst.with_name(f"{dst.name}.tmp-{os.getpid()}")
    if aside.exists():
        raise InputError(f"{aside}: left by an interrupted command: expected no such folder; remove it")
    try:
        aside.mkdir(parents=True)
        yield aside
        aside.rename(dst)
    except OSError as error:
        raise InputError(f"{dst}: cannot be written ({error}): make room, or choose another place") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
