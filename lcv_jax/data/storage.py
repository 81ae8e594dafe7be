"""Folders of finished files, on this machine or in an object store: gs://, s3:// and whatever else fsspec knows.

A local path needs nothing. gs:// needs the package gcsfs and s3:// needs s3fs, which fsspec asks for by name.
ArrayRecord reads local files only, so a shard of a store is fetched once into a local folder, and compared with its
checksum there.
"""

import contextlib
import os
import pathlib
import tempfile
import zlib
from collections.abc import Iterator

import fsspec

from lcv_jax.data.files import replacing, unwritable
from lcv_jax.errors import InputError

_CHUNK = 1 << 24


class Folder:
    """A folder by path or URL. fetched: where files of a store are kept once they were read; None is a temporary
    folder that ends with the process."""

    def __init__(self, place: os.PathLike[str] | str, fetched: os.PathLike[str] | str | None = None):
        self.place = os.fspath(place).rstrip("/")
        self._fs = None
        if "://" in self.place:
            try:
                self._fs, self._root = fsspec.core.url_to_fs(self.place)
            except (ImportError, ValueError) as error:  # the package of this kind of store is missing, or there is none
                raise InputError(f"{self.place}: cannot be opened ({error})") from error
        self._kept = tempfile.TemporaryDirectory(prefix="lcv-") if self._fs and fetched is None else None
        self._fetched = pathlib.Path(self._kept.name if self._kept else fetched or ".")

    @property
    def local(self) -> bool:
        return self._fs is None

    def name(self, file: str) -> str:
        """For messages."""
        return f"{self.place}/{file}"

    def read(self, file: str) -> str | None:
        """A text, None where there is no such file."""
        try:
            if self._fs is None:
                return pathlib.Path(self.place, file).read_text("utf-8")
            return self._fs.cat_file(f"{self._root}/{file}").decode()
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise InputError(f"{self.place}: is not a folder") from error

    def write(self, file: str, text: str) -> None:
        """A text, whole or not at all."""
        if self._fs is None:
            with replacing(pathlib.Path(self.place, file)) as aside:
                aside.write_text(text, "utf-8")
            return
        with _refused(self.name(file)):
            self._fs.pipe_file(f"{self._root}/{file}", text.encode())

    def put(self, path: pathlib.Path, file: str) -> None:
        """Moves a finished local file here; it appears whole."""
        if self._fs is None:
            with replacing(pathlib.Path(self.place, file)) as aside:
                os.replace(path, aside)
            return
        with _refused(self.name(file)):
            self._fs.put_file(os.fspath(path), f"{self._root}/{file}")
        path.unlink()

    def aside(self, file: str) -> pathlib.Path:
        """A local name to write what `put` then takes: on the same disk where the folder is local."""
        folder = pathlib.Path(self.place) if self._fs is None else self._fetched
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from error
        return folder / f".{file}.{os.getpid()}.part"

    def fetch(self, file: str, size: int, checksum: int) -> pathlib.Path:
        """A local path of the file. Raises InputError unless it is there with this size; what is fetched from a store
        is compared with its CRC-32 as well."""
        path = pathlib.Path(self.place, file) if self._fs is None else self._fetched / file
        if self._fs is not None and not (path.is_file() and path.stat().st_size == size):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as aside:
                try:
                    self._fs.get_file(f"{self._root}/{file}", os.fspath(aside))
                except OSError as error:
                    raise InputError(f"{self.name(file)}: cannot be fetched ({error})") from error
                self._check(file, aside.stat().st_size, size)
                if crc32(aside) != checksum:
                    raise InputError(f"{self.name(file)}: differs from its checksum in the index; copy it again")
        self._check(file, path.stat().st_size if path.is_file() else None, size)
        return path

    def _check(self, file: str, found: int | None, size: int) -> None:
        if found != size:
            is_ = "is missing" if found is None else f"has {found} bytes"
            raise InputError(f"{self.name(file)}: {is_}, expected {size} bytes; copy the dataset again")


@contextlib.contextmanager
def _refused(name: str) -> Iterator[None]:
    """What a store raises, as InputError."""
    try:
        yield
    except OSError as error:
        raise unwritable(name, error) from error


def crc32(path: pathlib.Path) -> int:
    """Of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
