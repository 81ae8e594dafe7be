"""Our layout on disk: one Orbax checkpoint a model, one array a tensor, under official names and axis order.

Arrays are plain uncompressed zarr, one folder each, so any Orbax or zarr reader opens them and one tensor
is restored without touching the others. Orbax saves whole trees; handing it leaves that read themselves
when their turn comes keeps host memory at two tensors (measured in benchmarks/import_checkpoint.py).
"""

import contextlib
import dataclasses
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp

from lcv_jax.checkpoint.tensorfile import TensorInfo
from lcv_jax.errors import InputError

PARAMS = "params"
_types = ocp.type_handlers


@dataclasses.dataclass(frozen=True, eq=False)
class LazyTensor:
    """A leaf of a tree to be saved: shape and dtype now, values when `read` is called."""

    info: TensorInfo
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return self.info.nbytes


class _LazyHandler(_types.NumpyHandler):
    """Saves LazyTensors as NumPy arrays, one being read while one is being written."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)  # nobody else holds the array

    async def serialize(self, values, infos, args=None):
        writing = []
        for i, (value, info) in enumerate(zip(values, infos, strict=True)):
            try:
                array = value.read()  # while the previous array is being written
            finally:
                for future in writing:
                    future.result()
            writing = await super().serialize([array], [info], args and [args[i]])
        return writing


def save(folder: os.PathLike[str] | str, tensors: Mapping[str, TensorInfo], read: Callable[[str], np.ndarray]) -> None:
    """Writes the Orbax checkpoint `folder`, which must not exist; `read(name)` gives one tensor.

    Raises InputError when it cannot be written; what `read` raises passes through.
    """
    registry = _types.create_type_handler_registry((LazyTensor, _LazyHandler()), (jax.Array, _types.ArrayHandler()))
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False, type_handler_registry=registry)
    tree = {name: LazyTensor(info, functools.partial(read, name)) for name, info in tensors.items()}
    try:
        with quiet(), ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(pathlib.Path(folder).absolute(), args=ocp.args.PyTreeSave(tree))
    except InputError:
        raise
    except (OSError, ValueError) as error:  # TensorStore reports a full disk as a ValueError
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: cannot be written ({reason}): make room, or choose another place") from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Orbax's warnings: of every save without its OCDBT database, which we leave out on purpose, and of
    damaged files, which we refuse ourselves."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class OrbaxSource:
    """The Orbax checkpoint params/ in a model's folder of our layout."""

    def __init__(self, path: os.PathLike[str] | str):
        self.path = pathlib.Path(path).absolute()
        self._params = self.path / PARAMS
        self._checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
        self.tensors = _tensors(self._params, self._checkpointer)

    def file(self, name: str) -> pathlib.Path:
        return self._params / name

    def chunks(self, name: str) -> Iterator[np.ndarray]:
        """The values of one tensor, flat, as a single chunk."""
        yield self.read(name).reshape(-1)

    def read(self, name: str, dtype: np.dtype | None = None) -> np.ndarray:
        """Restores one tensor; the others are not read."""
        wanted = {name: ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype)}
        args = ocp.args.PyTreeRestore(item=dict(wanted), restore_args=wanted, partial_restore=True)
        try:
            return self._checkpointer.restore(self._params, args=args)[name]
        except (OSError, ValueError) as error:
            raise _damaged(self.file(name), error) from None


def _tensors(params: pathlib.Path, checkpointer: ocp.Checkpointer) -> dict[str, TensorInfo]:
    if not params.is_dir():
        raise InputError(f"{params}: no such folder: expected an Orbax checkpoint; import it again")
    try:
        with quiet():
            metadata = checkpointer.metadata(params).item_metadata
        if metadata is None:  # what Orbax returns after its warning
            raise ValueError("not readable as metadata")
        return {name: TensorInfo(tuple(m.shape), np.dtype(m.dtype)) for name, m in metadata.tree.items()}
    except Exception as error:  # Orbax lets whatever a broken file causes through
        raise _damaged(params / "_METADATA", error) from None


def _damaged(path: pathlib.Path, error: object) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: damaged or incomplete Orbax checkpoint ({reason}): import the checkpoint again")
