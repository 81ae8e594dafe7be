"""One cached sample as bytes: named arrays, captions and a key, in a layout of its own, read strictly.

    4 bytes   "LCVR"
    1 byte    the version, 1
    4 bytes   length of the header, little endian
    header    JSON: key, captions, and of each array its name, dtype and shape
    arrays    one behind the other in the header's order, C order, little endian

Nothing else may stand in a record: a byte more or less, an unknown key or dtype is refused. That the bytes are those
that were written is checked below, by the file format, which keeps a hash of every record (data/shards.py).
"""

import dataclasses
import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from lcv_jax.errors import InputError

MAGIC = b"LCVR"
VERSION = 1
DTYPES = {
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype("<f2"),
    "float32": np.dtype("<f4"),
}
_START = struct.Struct("<4sBI")


class RecordError(InputError):
    """A record that is not one. The loader skips and counts those; see data/loader.py."""


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """key: unique in its dataset. captions: text by name, such as "en". arrays: by name."""

    key: str
    captions: Mapping[str, str]
    arrays: Mapping[str, np.ndarray]

    def __eq__(self, other: object) -> bool:
        """Bit for bit."""
        return isinstance(other, Record) and encode(self) == encode(other)

    __hash__ = None


def encode(record: Record) -> bytes:
    """Raises InputError for dtypes other than bfloat16, float16 and float32."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    told, parts = [], []
    for name, array in record.arrays.items():
        array = np.asarray(array)
        dtype = names.get(array.dtype.newbyteorder("<") if array.dtype.kind == "f" else array.dtype)
        if dtype is None:
            raise InputError(f"record {record.key!r}, {name!r}: dtype {array.dtype}, expected one of {_known()}")
        told.append({"name": name, "dtype": dtype, "shape": list(array.shape)})
        parts.append(array.astype(DTYPES[dtype], copy=False).tobytes())
    header = {"key": record.key, "captions": dict(record.captions), "arrays": told}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    return b"".join([_START.pack(MAGIC, VERSION, len(text)), text, *parts])


def decode(data: bytes) -> Record:
    """The inverse; arrays are read-only views of `data`. Raises RecordError on what `encode` does not write."""
    if len(data) < _START.size:
        raise RecordError(f"a record of {len(data)} bytes: expected at least {_START.size}")
    magic, version, length = _START.unpack_from(data)
    if magic != MAGIC:
        raise RecordError(
            f"a record that begins with {magic!r}: expected {MAGIC!r}; it is not a record of this project"
        )
    if version != VERSION:
        raise RecordError(f"a record of version {version}: expected {VERSION}; write the cache again")
    at = _START.size + length
    header = _header(data[_START.size : at], length)
    arrays = {}
    for name, dtype, shape in (_array(told) for told in header["arrays"]):
        size = dtype.itemsize * math.prod(shape)
        if name in arrays or at + size > len(data):
            raise RecordError(f"record {header['key']!r}, {name!r}: given twice, or the record ends before it does")
        arrays[name] = np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)
        at += size
    if at != len(data):
        raise RecordError(f"record {header['key']!r}: {len(data) - at} bytes behind the last array, expected none")
    return Record(header["key"], header["captions"], arrays)


def _header(text: bytes, length: int) -> dict[str, Any]:
    try:
        header = json.loads(text.decode()) if len(text) == length else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or set(header) != {"key", "captions", "arrays"}:
        raise RecordError("a record whose header is damaged: expected JSON with key, captions and arrays")
    captions, arrays = header["captions"], header["arrays"]
    texts = isinstance(captions, dict) and all(isinstance(text, str) for text in captions.values())
    if not isinstance(header["key"], str) or not texts or not isinstance(arrays, list):
        raise RecordError("a record whose header is damaged: expected a key, captions by name and a list of arrays")
    return header


def _array(told: Any) -> tuple[str, np.dtype, tuple[int, ...]]:
    if not isinstance(told, dict) or set(told) != {"name", "dtype", "shape"}:
        raise RecordError(f"an array described by {told!r}: expected name, dtype and shape")
    name, dtype, shape = told["name"], told["dtype"], told["shape"]
    sizes = isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(name, str) or dtype not in DTYPES or not sizes:
        raise RecordError(
            f"array {name!r} of dtype {dtype!r} and shape {shape!r}: expected one of {_known()}, and sizes"
        )
    return name, DTYPES[dtype], tuple(shape)


def _known() -> str:
    return ", ".join(DTYPES)
