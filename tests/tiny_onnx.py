"""An ONNX file written byte by byte, as onnx, the package that writes them, is no dependency: for tests of encoders."""

import pathlib
from collections.abc import Sequence

import numpy as np

_FLOAT, _INT64 = 1, 7


def write_lookup(path: pathlib.Path, rows: np.ndarray, inputs: Sequence[str]) -> None:
    """A model whose states (1, tokens, width) are the `rows` (words, width) float32 of its first input's ids. It has
    all `inputs`, (1, tokens) int64, and uses the first."""
    tensor = (
        b"".join(_number(1, side) for side in rows.shape)
        + _number(2, _FLOAT)
        + _bytes(8, b"rows")
        + _bytes(9, rows.astype("<f4").tobytes())
    )
    node = _bytes(1, b"rows") + _bytes(1, inputs[0].encode()) + _bytes(2, b"states") + _bytes(4, b"Gather")
    graph = (
        _bytes(1, node)
        + _bytes(2, b"lookup")
        + _bytes(5, tensor)
        + b"".join(_bytes(11, _value(name, _INT64, 2)) for name in inputs)
        + _bytes(12, _value("states", _FLOAT, 3))
    )
    path.write_bytes(_number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 17)))


def _value(name: str, kind: int, axes: int) -> bytes:
    """A name with a type and as many axes of any length."""
    shape = b"".join(_bytes(1, _bytes(2, f"{name}{axis}".encode())) for axis in range(axes))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))
