"""A source of official tensors -> a parameter pytree, tensor by tensor onto its shards.

Host memory stays bounded at about two tensors whatever the model's size: a tensor is read, brought to our
axis order and dtype, sent to the devices that keep a part of it, and, when blocks are stacked, written
into its row of a buffer that is donated from row to row.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from lcv_jax.checkpoint.source import Source
from lcv_jax.checkpoint.table import Axes, Place, Table
from lcv_jax.errors import InputError
from lcv_jax.models.layers import KERNEL_SCALE
from lcv_jax.models.quantised import Quantisation

Params = dict[str, Any]
READABLE = ("float32", "bfloat16", "float16")
_CHUNK = 1 << 24  # elements looked at together by the check for NaN and infinity


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One leaf of our pytree and the official tensors it is made of, in the order of their rows."""

    path: str
    abstract: jax.ShapeDtypeStruct
    parts: tuple[tuple[str, Place], ...]

    @property
    def stacked(self) -> bool:
        return self.parts[0][1].layer is not None


def load_params(
    source: Source,
    table: Table,
    abstract: Params,
    *,
    dtype: Any = None,
    shardings: Params | None = None,
    quantisation: Quantisation | None = None,
    check_finite: bool = False,
) -> Params:
    """Loads a model's parameters.

    abstract: nested dict of jax.ShapeDtypeStruct, stacked blocks with the layer axis first. dtype: of every
    leaf; None takes each abstract leaf's. shardings: a pytree like `abstract` of NamedSharding or
    SingleDeviceSharding; None is the default device. A memory kind in them is where a leaf rests once it is whole. With
    `quantisation` the kernels that it takes are quantised row by row, from the values as stored, and `shardings` are
    those of `quantisation.abstract(abstract)`. check_finite: refuse NaN and infinity (after the cast).

    Raises InputError, before any tensor is read, on unknown, missing or doubly mapped keys, on wrong shapes
    and on dtypes other than float32, bfloat16 and float16; while reading, on values that are not finite. Where
    a tensor and its alias are both there, both are read, and other values in one than in the other are refused.
    """
    leaves = plan(source, table, abstract)
    check_aliases(source, table)
    where = flatten(shardings) if shardings is not None else {}
    default = SingleDeviceSharding(jax.local_devices()[0])
    loaded: dict[str, jax.Array] = {}
    for leaf in leaves:
        target = jnp.dtype(dtype or leaf.abstract.dtype)
        if quantisation is not None and quantisation.takes(leaf.path):
            paths = leaf.path, _scale_path(leaf)
            to = tuple(where.get(path, default) for path in paths)
            kernel_and_scale = _load_quantised(source, leaf, quantisation, tuple(map(_working, to)), check_finite)
            values = zip(paths, kernel_and_scale, to, strict=True)
        else:
            to = where.get(leaf.path, default)
            values = [(leaf.path, _load_leaf(source, leaf, target, _working(to), check_finite), to)]
        loaded |= {path: _at_rest(value, to) for path, value, to in values}
    return unflatten(loaded)


def programs(
    source: Source,
    leaves: Iterable[Leaf],
    shardings: Params,
    call: Callable[..., Any],
    *,
    dtype: Any = None,
    quantisation: Quantisation | None = None,
) -> None:
    """Gives `call` every jitted function that `load_params` runs for these leaves, with arguments like those, in which
    jax.ShapeDtypeStruct stand for arrays. Nothing is read."""
    where = flatten(shardings)
    for leaf in leaves:
        if not leaf.stacked:
            continue
        name, place = leaf.parts[0]
        to = _working(where[leaf.path])
        target = jnp.dtype(dtype or leaf.abstract.dtype)
        taken = quantisation is not None and quantisation.takes(leaf.path)
        official = place.axes.official_shape(leaf.abstract.shape[1:])
        stored = source.tensors[name].dtype if taken else target
        row = jax.ShapeDtypeStruct(official, stored, sharding=_row_sharding(leaf, to))
        if not taken:
            buffer = jax.ShapeDtypeStruct(leaf.abstract.shape, target, sharding=to)
            call(_write, buffer, row, np.int32(0), place.axes, to)
            continue
        both = to, _working(where[_scale_path(leaf)])
        layers, _, *features = leaf.abstract.shape
        kernel = jax.ShapeDtypeStruct(leaf.abstract.shape, quantisation.dtype, sharding=both[0])
        scale = jax.ShapeDtypeStruct((layers, *features), jnp.float32, sharding=both[1])
        call(_write_quantised, kernel, scale, row, np.int32(0), place.axes, quantisation, both)


def plan(source: Source, table: Table, abstract: Params) -> tuple[Leaf, ...]:
    """Which tensors make up which leaf; compares names, shapes and dtypes with the headers, both ways."""
    leaves, expected = [], {}
    for path, leaf in flatten(abstract).items():
        parts = table.names(path, leaf.shape[0] if leaf.shape else None)
        parts = tuple((_stored(source, table, name), place) for name, place in parts)
        leaves.append(Leaf(path, leaf, parts))
        for name, place in parts:
            shape = leaf.shape if place.layer is None else leaf.shape[1:]
            expected[name] = place.axes.official_shape(shape)
    aliases = dict(table.aliases)
    for name in source.tensors:
        if name in expected:
            table.locate(aliases.get(name, name))
        elif name not in aliases:
            _refuse_extra(source, table, name)
    for name, shape in expected.items():
        _check(source, table, name, shape)
    for alias, name in aliases.items():
        if alias in source.tensors:
            _check(source, table, alias, expected[name if name in expected else alias])
    return tuple(leaves)


def check_aliases(source: Source, table: Table) -> None:
    """Raises InputError where a tensor and its alias are both there and differ: only one of them would be used."""
    for alias, name in table.aliases:
        if alias not in source.tensors or name not in source.tensors:
            continue
        at = 0
        for one, two in zip(source.chunks(alias), source.chunks(name), strict=True):
            one, two = one.astype(np.float32), two.astype(np.float32)  # exact, so that dtypes may differ
            differs = (one != two) & ~(np.isnan(one) & np.isnan(two))
            if differs.any():
                first = int(np.argmax(differs))
                index = [int(i) for i in np.unravel_index(at + first, source.tensors[name].shape)]
                raise InputError(
                    f"{source.file(alias)}: key {alias!r} is {one[first]} at {index}, but {name!r} in "
                    f"{source.file(name).name} is {two[first]}: expected the same values in both; take whole files "
                    f"of one version, or remove {alias!r}"
                )
            at += one.size


def read_cast(source: Source, name: str, dtype: Any, check_finite: bool = False) -> np.ndarray:
    """One official tensor in `dtype`; raises InputError on NaN or infinity when `check_finite`."""
    value = source.read(name, np.dtype(dtype))
    flat = value.reshape(-1)
    for start in range(0, flat.size if check_finite else 0, _CHUNK):
        finite = np.isfinite(flat[start : start + _CHUNK])
        if not finite.all():
            at = start + int(np.argmin(finite))
            index = [int(i) for i in np.unravel_index(at, value.shape)]
            raise InputError(
                f"{source.file(name)}: key {name!r} is {flat[at]} at {index}, expected finite values in "
                f"{value.dtype}: the checkpoint is damaged or overflows this dtype; take another"
            )
    return value


def flatten(tree: Params, prefix: str = "") -> dict[str, Any]:
    """Nested dicts -> {"a/b/c": leaf}."""
    flat = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value})
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten`."""
    tree: Params = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        functools.reduce(lambda node, key: node.setdefault(key, {}), parents, tree)[last] = value
    return tree


def _stored(source: Source, table: Table, name: str) -> str:
    """The name under which the source holds the tensor: an alias where only the alias is there."""
    if name in source.tensors:
        return name
    return next((a for a, n in table.aliases if n == name and a in source.tensors), name)


def _check(source: Source, table: Table, name: str, shape: tuple[int, ...]) -> None:
    if name not in source.tensors:
        raise InputError(
            f"{source.path}: key {name!r} is missing, expected shape {list(shape)} for the {table.model} of "
            "config.json: complete the download, or correct the config"
        )
    info = source.tensors[name]
    if info.shape != shape:
        raise InputError(
            f"{source.file(name)}: key {name!r} has shape {list(info.shape)}, expected {list(shape)} for the "
            f"{table.model} of config.json: use the config that belongs to these weights"
        )
    if info.dtype.name not in READABLE:
        raise InputError(
            f"{source.file(name)}: key {name!r} has dtype {info.dtype.name}, expected one of "
            f"{', '.join(READABLE)}: convert the checkpoint first"
        )


def _refuse_extra(source: Source, table: Table, name: str) -> None:
    try:
        place = table.locate(name)
    except InputError as error:
        raise InputError(f"{source.file(name)}: {error}") from None
    what = place.path if place.layer is None else f"layer {place.layer} of {place.path}"
    raise InputError(
        f"{source.file(name)}: key {name!r} ({what}) is not part of the {table.model} of config.json, "
        "expected no such tensor: use the config that belongs to these weights"
    )


def put(value: np.ndarray, sharding: Sharding) -> jax.Array:
    """A host array onto its shards; every device gets its own slice only."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def _load_leaf(
    source: Source, leaf: Leaf, dtype: Any, sharding: NamedSharding | SingleDeviceSharding, check_finite: bool
) -> jax.Array:
    """Reads a leaf's tensors onto its shards, stacking them where the model stacks its blocks."""
    if not leaf.stacked:
        name, place = leaf.parts[0]
        value = place.axes.ours(read_cast(source, name, dtype, check_finite))
        return put(np.ascontiguousarray(value), sharding)
    buffer = jnp.zeros(leaf.abstract.shape, dtype, device=sharding)
    row_sharding = _row_sharding(leaf, sharding)
    for i, (name, place) in enumerate(leaf.parts):
        row = put(read_cast(source, name, dtype, check_finite), row_sharding)
        # Waiting keeps a slow device from piling up host copies of rows that are still on their way.
        buffer = jax.block_until_ready(_write(buffer, row, np.int32(i), place.axes, sharding))
    return buffer


@functools.partial(jax.jit, donate_argnums=0, static_argnums=(3, 4))
def _write(buffer: jax.Array, row: jax.Array, i: jax.Array, axes: Axes, sharding: Sharding) -> jax.Array:
    """Writes an official tensor into row i. The device transposes it, many times faster than NumPy does."""
    buffer = jax.lax.dynamic_update_index_in_dim(buffer, axes.ours(row), i, 0)
    return jax.lax.with_sharding_constraint(buffer, sharding)


def _load_quantised(
    source: Source,
    leaf: Leaf,
    quantisation: Quantisation,
    shardings: tuple[Sharding, Sharding],
    check_finite: bool,
) -> tuple[jax.Array, jax.Array]:
    """Reads a stacked kernel's tensors onto its shards as a quantised kernel and its scales, of these shardings."""
    layers, _, *features = leaf.abstract.shape
    kernel = jnp.zeros(leaf.abstract.shape, quantisation.dtype, device=shardings[0])
    scale = jnp.zeros((layers, *features), jnp.float32, device=shardings[1])
    row_sharding = _row_sharding(leaf, shardings[0])
    for i, (name, place) in enumerate(leaf.parts):
        row = put(read_cast(source, name, source.tensors[name].dtype, check_finite), row_sharding)
        written = _write_quantised(kernel, scale, row, np.int32(i), place.axes, quantisation, shardings)
        kernel, scale = jax.block_until_ready(written)
    return kernel, scale


@functools.partial(jax.jit, donate_argnums=(0, 1), static_argnums=(4, 5, 6))
def _write_quantised(
    kernel: jax.Array,
    scale: jax.Array,
    row: jax.Array,
    i: jax.Array,
    axes: Axes,
    quantisation: Quantisation,
    shardings: tuple[Sharding, Sharding],
) -> tuple[jax.Array, jax.Array]:
    """Writes an official tensor, quantised, into row i of both."""
    buffers = zip((kernel, scale), quantisation(axes.ours(row)), strict=True)
    written = tuple(jax.lax.dynamic_update_index_in_dim(buffer, new, i, 0) for buffer, new in buffers)
    return jax.lax.with_sharding_constraint(written, shardings)


def _scale_path(leaf: Leaf) -> str:
    """Where the scales of a quantised kernel stand."""
    return f"{leaf.path.rpartition('/')[0]}/{KERNEL_SCALE}"


def _working(sharding: Sharding) -> Sharding:
    """The same on the devices' own memory: rows are transposed and stacked there."""
    return sharding.with_memory_kind(None)


def _at_rest(value: jax.Array, sharding: Sharding) -> jax.Array:
    """A whole leaf where it is to stay."""
    moves = value.sharding.memory_kind != sharding.memory_kind
    return jax.block_until_ready(jax.device_put(value, sharding)) if moves else value


def _row_sharding(leaf: Leaf, sharding: NamedSharding | SingleDeviceSharding) -> Sharding:
    """Where one official tensor of a stacked leaf goes, so that no device gets more than it keeps."""
    if isinstance(sharding, SingleDeviceSharding):
        return sharding
    rank = len(leaf.abstract.shape)
    spec = (*sharding.spec, *(None,) * (rank - len(sharding.spec)))[1:]
    official = PartitionSpec(*leaf.parts[0][1].axes.official_cut(spec))
    return NamedSharding(sharding.mesh, official)
