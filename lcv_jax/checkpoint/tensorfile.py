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
import struct
from collections.abc import Callable, Mapping
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
            entries = json.loads(header)
            metadata = entries.pop("__metadata__", {})
            tensors = {name: _info(entry, 8 + length) for name, entry in entries.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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

    tensors gives shapes and dtypes, `read(name)` the values. The order in the file is the reference writer's:
    wide dtypes first, then by name, so that equal tensors make equal files.
    """
    order = sorted(tensors, key=lambda name: (-_DTYPE_ORDER[tensors[name].dtype], name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in order:
        info, begin = tensors[name], end
        end += info.nbytes
        header[name] = {
            "dtype": _CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            value, info = read(name), tensors[name]
            if value.shape != info.shape or value.dtype != info.dtype:
                raise ValueError(f"{name=}: got {value.dtype}{value.shape}, announced {info.dtype}{info.shape}")
            file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)


# The reference writer sorts by its enumeration of dtypes, last first; these are ours in that order.
_WIDTH_ORDER = ("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16", "F16", "BF16")
_WIDTH_ORDER += ("I32", "U32", "F32", "F64", "I64", "U64")
_DTYPE_ORDER = {_DTYPES[code]: i for i, code in enumerate(_WIDTH_ORDER)}


def _info(entry: dict, start: int) -> TensorInfo:
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"dtype {entry['dtype']!r} is not known")
    begin, end = entry["data_offsets"]
    info = TensorInfo(tuple(int(n) for n in entry["shape"]), _DTYPES[entry["dtype"]], start + begin)
    if end - begin != info.nbytes or begin < 0 or min(info.shape, default=0) < 0:
        raise ValueError(f"shape {list(info.shape)} does not fill bytes {begin} to {end}")
    return info


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
