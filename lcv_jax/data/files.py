"""Writing files so that a name only ever holds a finished one."""

import contextlib
import errno
import os
import pathlib
from collections.abc import Iterator

from lcv_jax.errors import InputError

Path = os.PathLike[str] | str
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_writable(path: Path, suffix: str) -> pathlib.Path:
    """Raises InputError unless a file `path` could be written now; to be called before the work it will hold.

    suffix: the ending that the name must have, such as ".mp4". Folders that are missing will be made by `replacing`.
    Leaves nothing behind. Returns the path.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"output {path}: expected a name that ends in {suffix}")
    if path.exists() and not path.is_file():
        raise InputError(f"output {path}: exists and is not a file; choose another name")
    folder = next(parent for parent in path.parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"output {path}: {folder} is not a folder; choose another name")
    aside = folder / _aside(path).name
    try:
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise unwritable(path, error) from error
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[pathlib.Path]:
    """Yields a name in the same folder, made if missing, to write to, which becomes `path` when the block ends.

    It is removed when the block raises. Who is killed half-way leaves .NAME.PID.part, never `path`. Raises InputError
    where the name cannot be written, or the block meets a full disk.
    """
    path = pathlib.Path(path)
    aside = _aside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        try:
            yield aside
        except OSError as error:
            if error.errno in _FULL:
                raise unwritable(path, error) from error
            raise
        try:
            os.replace(aside, path)
        except OSError as error:
            raise unwritable(path, error) from error
    finally:
        aside.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> InputError:
    """The error to raise when the system refuses to write `path`."""
    return InputError(f"output {path}: cannot be written ({error.strerror or error}); check the folder and the disk")


def _aside(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")
