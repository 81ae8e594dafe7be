"""Safetensors files: equal to the reference library's, byte for byte; damaged ones are named."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcv_jax.checkpoint.tensorfile import _CHUNK, METADATA, TensorFile, TensorInfo, write_tensors
from lcv_jax.errors import InputError

DTYPES = [np.dtype(d) for d in ("float32", "float16", "float64", "int64", "int8", "uint8", "bool")]
DTYPES += [np.dtype(ml_dtypes.bfloat16)]
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)
HERE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tensors(draw):
    names = draw(st.lists(st.text('abc.é/"', min_size=1, max_size=6), min_size=1, max_size=5, unique=True))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    made = {}
    for name in names:
        shape, dtype = draw(SHAPES), draw(st.sampled_from(DTYPES))
        size = int(np.prod(shape)) * dtype.itemsize
        data = rng.integers(0, 2 if dtype.kind == "b" else 256, size, dtype=np.uint8)
        made[name] = data.view(dtype).reshape(shape)
    return made


@HERE
@given(tensors())
def test_files_equal_the_reference_librarys(tmp_path, made):
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    infos = {name: TensorInfo(value.shape, value.dtype) for name, value in made.items()}
    write_tensors(ours, infos, made.__getitem__, METADATA)
    safetensors.numpy.save_file(made, theirs, METADATA)
    file = TensorFile.open(theirs)
    assert file.metadata == METADATA
    assert set(file.tensors) == set(made)
    for name, value in made.items():
        read = file.read(name)
        assert (read.dtype, read.shape) == (value.dtype, value.shape)
        assert read.tobytes() == value.tobytes()
    loaded = safetensors.numpy.load_file(ours)
    assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in loaded.items()} == {
        n: (v.dtype, v.shape, v.tobytes()) for n, v in made.items()
    }
    assert ours.read_bytes() == theirs.read_bytes()


def test_read_is_fresh_and_writable(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"x": np.arange(6, dtype=np.float32)}, path)
    file = TensorFile.open(path)
    file.read("x")[0] = 7
    assert file.read("x")[0] == 0


@pytest.mark.parametrize("size", [1, _CHUNK - 1, _CHUNK, _CHUNK + 1])
def test_cast_while_reading(tmp_path, size):
    """Equal to reading and casting; tensors around the size of a chunk."""
    value = np.random.default_rng(0).standard_normal(size + 3, np.float32)
    value[:3] = np.inf, np.nan, 3e38
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"before": value[:5], "x": value[:size]}, path)
    for dtype in (np.dtype(ml_dtypes.bfloat16), np.dtype("float16"), np.dtype("float32")):
        read = TensorFile.open(path).read("x", dtype)
        assert read.dtype == dtype
        with np.errstate(over="ignore"):
            assert read.tobytes() == value[:size].astype(dtype).tobytes()


@pytest.mark.parametrize("size", [0, 1, _CHUNK, _CHUNK + 1])
def test_chunks_are_the_tensor(tmp_path, size):
    value = np.arange(size, dtype=np.float32)
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"before": np.ones(5, np.float32), "x": value}, path)
    parts = list(TensorFile.open(path).chunks("x"))
    assert len(parts) == -(-size // _CHUNK)
    np.testing.assert_array_equal(np.concatenate([value[:0], *parts]), value)


def test_writer_refuses_other_values_than_announced(tmp_path):
    info = {"x": TensorInfo((2,), np.dtype("float32"))}
    with pytest.raises(ValueError, match=r"name='x'.*announced float32\(2,\)"):
        write_tensors(tmp_path / "a.safetensors", info, lambda name: np.zeros(3, np.float32))


def _file(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"\x80\x04\x95" + b"x" * 30, "pickle or zip archive, which is never read"),
        (b"PK\x03\x04" + b"x" * 30, "pickle or zip archive, which is never read"),
        (_file(b"{nonsense"), "header is not valid.*download it again"),
        (_file(b"[1, 2]"), "header is not valid"),
        (_file({"x": {"dtype": "F32"}}), "header is not valid"),
        (_file({"x": _entry(dtype="F3")}, b"\0" * 8), "dtype 'F3' is not known"),
        (_file({"x": _entry(shape=(3,))}, b"\0" * 8), r"shape \[3\] does not fill bytes 0 to 8"),
        (_file({"x": _entry(shape=(-2,), offsets=(8, 0))}, b"\0" * 8), r"shape \[-2\], expected whole numbers from 0"),
        (_file({"x": _entry(shape=(2.0,))}, b"\0" * 8), r"shape \[2.0\], expected whole numbers from 0"),
        (_file({"x": _entry(shape=(True, 2))}, b"\0" * 8), r"shape \[True, 2\], expected whole numbers"),
        (_file({"x": _entry(shape=(1 << 63,))}, b"\0" * 8), "expected whole numbers from 0"),
        (_file({"x": _entry(shape=("2",))}, b"\0" * 8), r"shape \['2'\], expected whole numbers"),
        (_file(b'{"x":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}', b"\0" * 4), r"shape \[inf\], expected"),
        (_file(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"\0" * 4), r"shape \[nan\], expected"),
        (_file(b'{"x":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}', b"\0" * 8), "shape 2, expected whole numbers"),
        (_file({"x": _entry(shape=(10**18, 10**18, 0), offsets=(0, 9**5000 % 10**18))}), "does not fill bytes 0"),
        (_file(b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,8]}}' % (b"9" * 5000)), "header is not valid"),
        (_file({"x": _entry(shape=[1] * 10**5)}, b"\0" * 8), "does not fill bytes 0 to 8"),
        (_file({"x": _entry(offsets=(0.0, 8.0))}, b"\0" * 8), r"data_offsets \[0.0, 8.0\], expected two whole numbers"),
        (_file({"x": _entry(offsets=(False, 8))}, b"\0" * 8), "data_offsets .*expected two whole numbers"),
        (_file({"x": _entry(offsets=(-8, 0))}, b"\0" * 8), "data_offsets .*expected two whole numbers"),
        (_file({"x": _entry(offsets=(8,))}, b"\0" * 8), "data_offsets .*expected two whole numbers"),
        (_file({"x": _entry(dtype=["F32"])}, b"\0" * 8), r"dtype \['F32'\] is not known"),
        (_file({"x": 3}), "key 'x' is 3, expected dtype, shape and data_offsets"),
        (_file({"x": _entry(), "__metadata__": {"format": 1}}, b"\0" * 8), "__metadata__ is .*expected strings"),
        (_file({"__metadata__": [1]}), r"__metadata__ is \[1\], expected strings"),
        (_file(b'{"x":{},"x":{}}'), "key 'x' occurs twice"),
        (_file(b"[" * 100_000), "header is not valid .*recursion"),
        (_file(b'{"a":' * 100_000), "header is not valid .*recursion"),
        (_file(b'"\xff\xfe"'), "header is not valid"),
        (_file({"x": _entry(), "y": _entry()}, b"\0" * 8), "key 'y' begins at byte"),
        (_file({"x": _entry(), "y": _entry(offsets=(4, 12))}, b"\0" * 12), "key 'y' begins at byte"),
        (_file({"x": _entry(offsets=(4, 12))}, b"\0" * 12), "key 'x' begins at byte"),
        (_file({"x": _entry()}, b"\0" * 7), "is truncated: .* bytes, its header describes"),
        (_file({"x": _entry()}, b"\0" * 9), "has bytes behind its last tensor"),
    ],
)
def test_damaged_file(tmp_path, content, message):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        TensorFile.open(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_file_shortened_after_opening(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(_file({"x": _entry()}, b"\0" * 8))
    file = TensorFile.open(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match=r"key .x.: 4 bytes missing, expected 8"):
        file.read("x")


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pth", "a.ckpt", "a.PKL"])
def test_pickles_are_never_opened(tmp_path, name):
    with pytest.raises(InputError, match=r"pickle files .* never read: expected safetensors; convert"):
        TensorFile.open(tmp_path / name)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file: expected a safetensors file"):
        TensorFile.open(tmp_path / "a.safetensors")
