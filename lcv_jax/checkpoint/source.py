"""Where official tensors come from: one component's folder, in the official layout or in ours.

A `Source` knows names, shapes and dtypes without reading data, and reads one tensor at a time in the official
axis order. Every fault that headers show is raised when the source is opened, before any tensor is read.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import numpy as np

from lcv_jax.checkpoint.tensorfile import PICKLES, TensorFile, TensorInfo
from lcv_jax.errors import InputError


class Source(Protocol):
    """Official tensors of one component. path: its folder. tensors: name -> shape and dtype."""

    path: pathlib.Path
    tensors: Mapping[str, TensorInfo]

    def file(self, name: str) -> pathlib.Path:
        """The file that holds the tensor, for messages."""
        ...

    def read(self, name: str, dtype: np.dtype | None = None) -> np.ndarray:
        """One tensor in the official axis order, in `dtype`; None is the dtype it is stored in."""
        ...

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The values of one tensor in order, flat, as stored; tensors of one size are cut alike."""
        ...


class SafetensorsSource:
    """A folder of the official layout: one safetensors file, or shards with their index."""

    def __init__(self, path: os.PathLike[str] | str):
        self.path = pathlib.Path(path)
        self._files = _open_files(self.path)
        self.tensors = {name: file.tensors[name] for name, file in self._files.items()}

    def file(self, name: str) -> pathlib.Path:
        return self._files[name].path

    def read(self, name: str, dtype: np.dtype | None = None) -> np.ndarray:
        return self._files[name].read(name, dtype)

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        return self._files[name].chunks(name)


def read_json(path: pathlib.Path) -> dict:
    """A JSON object; raises InputError when it is missing or not one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: expected the component's {path.name}; download it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}): repair it or download it again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: a JSON {type(value).__name__}, expected an object: download it again")
    return value


def _open_files(folder: pathlib.Path) -> dict[str, TensorFile]:
    """Tensor name -> the file that holds it."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: expected config.json and safetensors files; check the path")
    indexes = sorted(folder.glob("*.safetensors.index.json"))
    singles = sorted(folder.glob("*.safetensors"))
    if len(indexes) == 1:
        return _open_index(indexes[0])
    if not indexes and len(singles) == 1:
        file = TensorFile.open(singles[0])
        return dict.fromkeys(file.tensors, file)
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in PICKLES)
    if not indexes and not singles and pickles:
        raise InputError(
            f"{folder}: only pickle files ({pickles[0]}), which can run code and are never read: "
            "expected safetensors; convert them first"
        )
    raise InputError(
        f"{folder}: {len(singles)} safetensors files and {len(indexes)} indexes: "
        "expected one file, or shards with one *.safetensors.index.json; complete the download"
    )


def _open_index(index: pathlib.Path) -> dict[str, TensorFile]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise InputError(f"{index}: key 'weight_map' is missing or not name -> file: download it again")
    opened: dict[str, TensorFile] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if pathlib.PurePath(shard).name != shard:
            raise InputError(f"{index}: shard {shard!r} is not a plain file name: download the index again")
        if not path.is_file():
            raise InputError(f"{path}: shard is missing, {index.name} names it: complete the download")
        opened[shard] = TensorFile.open(path)
    for name, shard in weight_map.items():
        if name not in opened[shard].tensors:
            raise InputError(f"{index}: key {name!r} is not in {shard}: index and shard differ; download both again")
    for shard, file in opened.items():
        for name in file.tensors:
            if weight_map.get(name) != shard:
                raise InputError(f"{file.path}: key {name!r} is not listed there by {index.name}: download both again")
    return {name: opened[shard] for name, shard in weight_map.items()}
