"""What a checkpoint, a model's folder, a safetensors file or a named architecture holds, as a table."""

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator

from lcv_jax.checkpoint import layout, lora
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.source import Source
from lcv_jax.checkpoint.store import OrbaxSource
from lcv_jax.checkpoint.tensorfile import TensorFile, TensorInfo, refuse_pickle
from lcv_jax.errors import InputError
from lcv_jax.models import zoo


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table. parameters: what is trained, so without aliases and without LoRA scales."""

    name: str
    kind: str
    tensors: int
    dtypes: str
    nbytes: int
    parameters: int


def inspect(path_or_name: os.PathLike[str] | str) -> list[Row]:
    """The rows for a folder, a file or a name such as "longcat-13b"; headers only. Raises InputError."""
    path = pathlib.Path(path_or_name)
    if path.is_dir():
        return list(_folder(path))
    if path.exists() or path.suffix == ".safetensors":
        return [_file(path)]
    refuse_pickle(path)
    if str(path_or_name) in zoo.ARCHITECTURES:
        return list(_architecture(zoo.ARCHITECTURES[str(path_or_name)]))
    raise InputError(
        f"{path_or_name}: no such folder or file, and not one of the named architectures "
        f"{', '.join(sorted(zoo.ARCHITECTURES))}: check the path"
    )


def table(rows: list[Row]) -> str:
    """The rows as aligned text, with a total where there are several models."""
    header = ("component", "kind", "tensors", "dtypes", "bytes", "parameters")
    lines = [header, *(_cells(row) for row in rows)]
    if len(rows) > 1:
        sums = [sum(getattr(row, field) for row in rows) for field in ("tensors", "nbytes", "parameters")]
        tensors, nbytes, parameters = (f"{total:,}" for total in sums)
        lines.append(("total", "", tensors, "", nbytes, parameters))
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    left = (True, True, False, True, False, False)
    return "\n".join(
        "  ".join(c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(line, widths, left, strict=True))
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return row.name, row.kind, f"{row.tensors:,}", row.dtypes, f"{row.nbytes:,}", f"{row.parameters:,}"


def _folder(path: pathlib.Path) -> Iterator[Row]:
    if (path / "config.json").is_file():
        component = layout.component_of(path)
        yield _model(component, layout.open_source(path))
        return
    for name, folder in layout.find(path).items():
        yield _model(layout.COMPONENTS[name], layout.open_source(folder))
    for file in sorted((path / "lora").glob("*.safetensors")):
        yield _file(file)


def _model(component: layout.Component, source: Source) -> Row:
    kind = "ours" if isinstance(source, OrbaxSource) else "official"
    return _row(component.name, kind, source.tensors, {alias for alias, _ in component.table.aliases})


def _file(path: pathlib.Path) -> Row:
    file = TensorFile.open(path)
    if lora.is_lora(file):
        scales = {name for name in file.tensors if name.endswith(f".{lora.SCALE}")}
        return _row(path.name, "LoRA", file.tensors, scales)
    return _row(path.name, "safetensors", file.tensors, set())


def _architecture(architecture: zoo.Architecture) -> Iterator[Row]:
    for name, component in layout.COMPONENTS.items():
        leaves = flatten(zoo.abstract_params(getattr(architecture, name)))
        tensors = {}
        for path, leaf in leaves.items():
            for official, place in component.table.names(path, leaf.shape[0]):
                shape = leaf.shape if place.layer is None else leaf.shape[1:]
                tensors[official] = TensorInfo(place.axes.official_shape(shape), leaf.dtype)
        yield _row(name, "architecture", tensors, set())


def _row(name: str, kind: str, tensors: dict[str, TensorInfo], uncounted: Iterable[str]) -> Row:
    counts = collections.Counter(info.dtype.name for info in tensors.values())
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items()))
    parameters = sum(math.prod(info.shape) for key, info in tensors.items() if key not in uncounted)
    return Row(name, kind, len(tensors), dtypes, sum(info.nbytes for info in tensors.values()), parameters)
