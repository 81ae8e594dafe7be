"""Fingerprints of the files of weights that scorers read, so that other weights compute a library's rows anew."""

import hashlib
import os
import pathlib

from lcv_jax.errors import InputError

_PIECE, _PIECES = 1 << 16, 64


def fingerprint(*paths: os.PathLike[str] | str) -> str:
    """Of files: changes with their sizes, and with the bytes of 64 pieces of each, of 64 KiB, evenly spread; small
    files are read whole. Raises InputError if one is missing."""
    digest = hashlib.sha256()
    for path in map(pathlib.Path, paths):
        if not path.is_file():
            raise InputError(f"weights {path}: no such file; docs/curation/scorers.md tells what is expected")
        size = path.stat().st_size
        digest.update(f"{size}:".encode())
        with path.open("rb") as file:
            for start in sorted({k * max(size - _PIECE, 0) // (_PIECES - 1) for k in range(_PIECES)}):
                file.seek(start)
                digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]
