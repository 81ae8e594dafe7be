"""One safetensors file: its header checked in full, its tensors read one at a time, written as a stream.

The format is 8 bytes of header length, a JSON header, then the raw tensors. We read it ourselves, because
that way a damaged file is found from the header and the file's size alone, bfloat16 needs no other
framework, and no tensor but the one asked for is ever held in memory. Pickle files (.bin, .pt, .pth,
.ckpt) can run code when read; they never are.
"""

import dataclasses
import json
import math
import os
import pathlib
import reprlib
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import ml_dtypes
import numpy as np

from lcv_jax.errors import InputError

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
METADATA = {"format": "pt"}

_DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"),
    "U16": np.dtype("uint16"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_MAX_HEADER = 100_000_000  # the limit of the format's reference reader
_CHUNK = 1 << 20  # elements read before they are cast: they stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor. offset: of its first byte in the file."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """A safetensors file whose header has been read and agrees with the file's size."""

    path: pathlib.Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @classmethod
    def open(cls, path: os.PathLike[str] | str) -> "TensorFile":
        """Reads and checks the header; raises InputError on anything that is not a whole safetensors file."""
        path = pathlib.Path(path)
        refuse_pickle(path)
        if not path.is_file():
            raise InputError(f"{path}: no such file: expected a safetensors file; check the path or download it")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 2 <= length <= min(_MAX_HEADER, size - 8):
                raise InputError(f"{path}: {_not_safetensors(start, size)}")
            header = file.read(length)
        try:
            metadata, tensors = _parse(header, 8 + length)
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: the safetensors header is not valid ({error}): it is damaged; download it again"
            ) from None
        _check_layout(path, tensors, 8 + length, size)
        return cls(path, tensors, metadata)

    def read(self, name: str, dtype: np.dtype | None = None) -> np.ndarray:
        """The tensor `name`, a fresh array in `dtype` (None is the file's); the cast needs no second copy."""
        info = self.tensors[name]
        tensor = np.empty(info.shape, dtype or info.dtype)
        flat = tensor.reshape(-1)
        with self.path.open("rb", buffering=0) as file, np.errstate(over="ignore", invalid="ignore"):
            file.seek(info.offset)
            if flat.dtype == info.dtype:
                self._fill(file, name, flat)
                return tensor
            part = np.empty(min(flat.size, _CHUNK), info.dtype)
            for start in range(0, flat.size, _CHUNK):
                part = part[: flat.size - start]
                self._fill(file, name, part)
                flat[start : start + _CHUNK] = part
        return tensor

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The values of the tensor `name` in order, flat, a few million bytes at a time."""
        info = self.tensors[name]
        size = math.prod(info.shape)
        with self.path.open("rb", buffering=0) as file:
            file.seek(info.offset)
            for start in range(0, size, _CHUNK):
                part = np.empty(min(_CHUNK, size - start), info.dtype)
                self._fill(file, name, part)
                yield part

    def _fill(self, file: BinaryIO, name: str, part: np.ndarray) -> None:
        """Reads until `part` is full: one system call reads 2 GB at most."""
        view = memoryview(part.view(np.uint8))
        while view:
            count = file.readinto(view)
            if not count:
                raise InputError(
                    f"{self.path}: key {name!r}: {len(view)} bytes missing, expected {self.tensors[name].nbytes}: "
                    "the file changed while it was read; download it again"
                )
            view = view[count:]


def refuse_pickle(path: pathlib.Path) -> None:
    """Raises InputError when `path` is named like a pickle."""
    if path.suffix.lower() in PICKLES:
        raise InputError(
            f"{path}: pickle files ({path.suffix}) can run code and are never read: expected safetensors; "
            "convert the file to safetensors first"
        )


def write_tensors(
    path: os.PathLike[str] | str,
    tensors: Mapping[str, TensorInfo],
    read: Callable[[str], np.ndarray],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, one tensor in memory at a time.

    tensors gives shapes and dtypes, `read(name)` the values.
    """
    order, start = header(tensors, metadata)
    with open(path, "wb") as file:
        file.write(start)
        for name in order:
            value, info = read(name), tensors[name]
            if value.shape != info.shape or value.dtype != info.dtype:
                raise ValueError(f"{name=}: got {value.dtype}{value.shape}, announced {info.dtype}{info.shape}")
            file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


def header(
    tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str] | None = None
) -> tuple[tuple[str, ...], bytes]:
    """The order of tensors in a safetensors file, and what stands before the first of them.

    The order is the reference writer's: wide dtypes first, then by name, so that equal tensors make equal files.
    """
    order = sorted(tensors, key=lambda name: (-_DTYPE_ORDER[tensors[name].dtype], name))
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        info, begin = tensors[name], end
        end += info.nbytes
        entries[name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return tuple(order), struct.pack("<Q", len(text)) + text


# The reference writer sorts by its enumeration of dtypes, last first; these are ours in that order.
_WIDTH_ORDER = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16")
_WIDTH_ORDER += ("I32", "U32", "F32", "F64", "I64", "U64")
_DTYPE_ORDER = {_DTYPES[code]: i for i, code in enumerate(_WIDTH_ORDER)}


def _parse(header: bytes, start: int) -> tuple[dict[str, str], dict[str, TensorInfo]]:
    """Metadata and tensors of a header; start: of the data in the file. Raises ValueError or RecursionError."""
    entries = json.loads(header, object_pairs_hook=_once)
    if not isinstance(entries, dict):
        raise ValueError(f"{reprlib.repr(entries)} is not an object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"__metadata__ is {reprlib.repr(metadata)}, expected strings")
    return metadata, {name: _info(name, entry, start) for name, entry in entries.items()}


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object; the parser by itself would silently keep the last of two equal keys."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {reprlib.repr(twice)} occurs twice")
    return entries


def _info(name: str, entry: object, start: int) -> TensorInfo:
    """One entry of a header. What it quotes is cut short: a hostile header is as long as it likes."""
    where = f"key {reprlib.repr(name)}"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise ValueError(f"{where} is {reprlib.repr(entry)}, expected dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{where}: dtype {reprlib.repr(dtype)} is not known")
    if not _are_counts(shape):
        raise ValueError(f"{where}: shape {reprlib.repr(shape)}, expected whole numbers from 0")
    if not _are_counts(offsets) or len(offsets) != 2:
        raise ValueError(f"{where}: data_offsets {reprlib.repr(offsets)}, expected two whole numbers from 0")
    begin, end = offsets
    info = TensorInfo(tuple(shape), _DTYPES[dtype], start + begin)
    if end - begin != info.nbytes:
        raise ValueError(f"{where}: shape {reprlib.repr(shape)} does not fill bytes {begin} to {end}")
    return info


def _are_counts(value: object) -> bool:
    """Whether `value` is a list of whole numbers that a file could have; true and false are none."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_layout(path: pathlib.Path, tensors: Mapping[str, TensorInfo], start: int, size: int) -> None:
    end = start
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if info.offset != end:
            raise InputError(f"{path}: key {name!r} begins at byte {info.offset}, expected {end}: download it again")
        end += info.nbytes
    if size != end:
        state = "is truncated" if size < end else "has bytes behind its last tensor"
        raise InputError(f"{path} {state}: {size} bytes, its header describes {end}; download it again")


def _not_safetensors(start: bytes, size: int) -> str:
    if start.startswith(b"version "):
        return "this is a Git LFS pointer, not the file: expected safetensors; fetch it with `git lfs pull`"
    if start.startswith((b"\x80", b"PK")):
        return "this is a pickle or zip archive, which is never read: expected safetensors; convert it first"
    return f"not a safetensors file ({size} bytes, the header does not fit): it is damaged; download it again"
