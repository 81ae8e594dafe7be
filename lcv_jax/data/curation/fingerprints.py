"""What weights on disk are, in a few letters: so that rows made with others are made anew, wherever they lie."""

import hashlib
import pathlib

from lcv_jax.errors import InputError

_KINDS = (".safetensors", ".json", ".txt", ".model", ".jinja", ".onnx")
_WHOLE = 1 << 20  # bytes; of larger files samples are taken
_SAMPLES, _SAMPLE = 16, 1 << 16


def fingerprint(place: str) -> str:
    """Of a file, or of a folder's weights, configs and vocabularies: 16 hexadecimal digits, of names, sizes and bytes.

    Of files above 1 MiB sixteen samples of 64 KiB are read, first and last included, so that it takes milliseconds.
    Raises InputError where there is nothing of the kind.
    """
    path = pathlib.Path(place).expanduser()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _KINDS)
    if not files:
        raise InputError(f"{place}: no such model: expected a folder with a config and weights, or a file of weights")
    whole = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        name = file.name if file == path else file.relative_to(path).as_posix()
        whole.update(f"{name}\0{size}\0".encode())
        try:
            with file.open("rb") as stream:
                for start in _starts(size):
                    stream.seek(start)
                    whole.update(stream.read(_SAMPLE if size > _WHOLE else size))
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
    return whole.hexdigest()[:16]


def _starts(size: int) -> list[int]:
    if size <= _WHOLE:
        return [0]
    return [(size - _SAMPLE) * i // (_SAMPLES - 1) for i in range(_SAMPLES)]
