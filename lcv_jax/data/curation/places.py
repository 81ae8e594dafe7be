"""Where videos come from: folders, lists and files, on this machine or in an object store that fsspec knows."""

import contextlib
import dataclasses
import json
import os
import pathlib
import posixpath
import tempfile
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from lcv_jax.errors import InputError

_LISTS = (".jsonl", ".txt")
_BESIDE = (".txt", ".json", ".srt", ".vtt", ".md5")
"""Endings of files that belong to the video of the same name, and are none themselves."""
_CAPTION = ".txt"


@dataclasses.dataclass(frozen=True)
class Listed:
    """A file that was found or named. source_id: as its list says, otherwise its path under the folder given. uri: an
    absolute path, or an address. caption, license: what the list says, or of a.mp4 what a.txt holds; None where nothing
    does."""

    source_id: str
    uri: str
    bytes: int
    caption: str | None = None
    license: str | None = None


def list_videos(place: str) -> list[Listed]:
    """All files of a folder, in the order of their names; those that a list names; or a single file.

    Hidden files are left out, and what lies beside a video under its name, such as captions. Raises InputError where
    there is nothing, or a list has lines that are none.
    """
    filesystem, root = _filesystem(place)
    place = place if "://" in place else os.path.abspath(place)  # runs may go on elsewhere
    try:
        if filesystem.isdir(root):
            return _folder(filesystem, place, root)
        if not filesystem.isfile(root):
            raise InputError(f"{place}: no such folder or file, expected videos, or a .jsonl or .txt that lists them")
        if posixpath.splitext(root)[1].lower() in _LISTS:
            return _list(filesystem, place, root)
        return [Listed(posixpath.basename(root), place, filesystem.size(root) or 0)]
    except OSError as error:
        raise InputError(f"{place}: cannot be listed ({error}); check the address and the access to it") from error


@contextlib.contextmanager
def local_copy(uri: str) -> Iterator[pathlib.Path]:
    """A local path of a file: its own, or that of a copy, which is removed when the block ends."""
    filesystem, root = _filesystem(uri)
    if isinstance(filesystem, LocalFileSystem):
        path = pathlib.Path(root)
        if not path.is_file():
            raise InputError(f"{uri}: no such file")
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="lcv-") as folder:
        path = pathlib.Path(folder, posixpath.basename(root))
        try:
            filesystem.get_file(root, str(path))
        except FileNotFoundError as error:
            raise InputError(f"{uri}: no such file") from error
        yield path


def _filesystem(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    try:
        return fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise InputError(f"{place}: cannot be opened ({error})") from error


def _folder(filesystem: fsspec.AbstractFileSystem, place: str, root: str) -> list[Listed]:
    found = filesystem.find(root, detail=True)
    names = {posixpath.relpath(path, root): about for path, about in sorted(found.items())}
    shown = {name: about for name, about in names.items() if not any(part[0] == "." for part in name.split("/"))}
    stems = {posixpath.splitext(name)[0] for name in shown if not name.lower().endswith(_BESIDE)}
    listed = []
    for name, about in shown.items():
        stem, ending = posixpath.splitext(name)
        if ending.lower() in _BESIDE and stem in stems:
            continue
        beside = f"{stem}{_CAPTION}"
        caption = _text(filesystem, f"{root}/{beside}") if beside in shown and beside != name else None
        listed.append(Listed(name, f"{place.rstrip('/')}/{name}", about["size"] or 0, caption))
    if not listed:
        raise InputError(f"{place}: holds no files, expected videos")
    return listed


def _list(filesystem: fsspec.AbstractFileSystem, place: str, root: str) -> list[Listed]:
    text = _text(filesystem, root)
    if root.lower().endswith(".jsonl"):
        entries = list(_entries(text, place))
    else:
        entries = [{"file": line.strip()} for line in text.splitlines() if line.strip()]
    if not entries:
        raise InputError(f"{place}: lists no files, expected one a line")
    base = place.rpartition("/")[0]
    listed = []
    for entry in entries:
        file = entry["file"]
        uri = file if "://" in file or file.startswith("/") else f"{base}/{file}"
        entry = {"caption": entry.get("en"), **entry}  # as lists of the cache may have it
        texts = {name: entry.get(name) for name in ("id", "caption", "license")}
        if wrong := [name for name, value in texts.items() if not (value is None or isinstance(value, str))]:
            raise InputError(f"{place}: {file}: {wrong[0]} {texts[wrong[0]]!r}, expected a text")
        listed.append(Listed(texts["id"] or file, uri, _size(uri), texts["caption"], texts["license"]))
    return listed


def _size(uri: str) -> int:
    """0 for what is not there, which is the worker's to tell, or elsewhere: of a long list that would take hours."""
    path = pathlib.Path(uri)
    return path.stat().st_size if "://" not in uri and path.is_file() else 0


def _text(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    try:
        return filesystem.cat_file(path).decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error})") from error


def _entries(text: str, where: str) -> Iterator[dict[str, Any]]:
    """Lines of a .jsonl list."""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("file"), str):
            raise InputError(
                f'{where}, line {number}: expected a JSON object with "file", and "id", "caption", "license"'
            )
        yield entry
