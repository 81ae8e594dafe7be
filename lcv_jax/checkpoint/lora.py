"""LoRA files <-> our `lora` pytrees, bit for bit in both directions.

A file holds, for a module such as blocks.7.attn.qkv, one down matrix of G * r rows, G up matrices (G = 1
has its own spelling) and the factor `alpha_scale`. Our pytree has a node at the module's path in the DiT's
params, stacked over the blocks where those are: {"down": (layers, in, G r), "up": (layers, G, r, out / G),
"scale": (layers,) float32}, without that axis for modules outside the blocks. Layers that a file lacks
are zeros with scale 0, so that one scan serves all. Source: SPEC section 7; the published files have
alpha_scale 0.5 and rank 128.
"""

import collections
import dataclasses
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping

import jax
import numpy as np

from lcv_jax.checkpoint.load import READABLE, Params, flatten, put, unflatten
from lcv_jax.checkpoint.table import DIT, LINEAR, Place
from lcv_jax.checkpoint.tensorfile import TensorFile, TensorInfo, write_tensors
from lcv_jax.errors import InputError

DOT = "___lorahyphen___"
PREFIX = f"lora{DOT}"
SCALE = "alpha_scale"
DOWN = "lora_down.weight"
UP = "lora_up.weight"
_NAME = re.compile(rf"{PREFIX}(?P<module>[^.]+)\.(?P<part>{SCALE}|{DOWN}|{UP}|lora_up\.blocks\.(\d+)\.weight)")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """One module's adapter in a file, the shapes checked. up: names of its G up matrices in order."""

    place: Place
    scale: str
    down: str
    up: tuple[str, ...]
    rank: int


def load_lora(
    path: os.PathLike[str] | str,
    abstract: Params,
    *,
    dtype=None,
    shardings: Callable[[Params], Params] | None = None,
) -> Params:
    """Reads a LoRA file for the DiT with `abstract` params.

    dtype: of down and up; None keeps the file's. shardings: from the result's shapes (nested dicts whose leaves have
    shapes) to a pytree of shardings like it; None is the default device. Raises InputError, before any tensor is read,
    when the file is not a LoRA, lacks a part, or is another model's.
    """
    file = TensorFile.open(path)
    kernels = flatten(abstract)
    found = modules(file, abstract)
    shapes = {
        f"{module}/{name}": shape
        for module, parts in found.items()
        for name, shape in _shapes(parts, kernels[f"{module}/kernel"]).items()
    }
    where = {} if shardings is None else flatten(shardings(unflatten(shapes)))
    loaded = {}
    for module, parts in found.items():
        for name, value in _stack(file, parts, kernels[f"{module}/kernel"], dtype).items():
            leaf = f"{module}/{name}"
            loaded[leaf] = put(value, where[leaf]) if shardings is not None else jax.device_put(value)
    return unflatten(loaded)


def save_lora(path: os.PathLike[str] | str, lora: Params) -> None:
    """Writes a LoRA file: the inverse of `load_lora`. A layer whose arrays are all 0 is left out."""
    path = pathlib.Path(path)
    values: dict[str, np.ndarray] = {}
    flat = {leaf: np.asarray(value) for leaf, value in flatten(lora).items()}
    for module in dict.fromkeys(leaf.rpartition("/")[0] for leaf in flat):
        scale, down, up = (flat[f"{module}/{name}"] for name in ("scale", "down", "up"))
        names = DIT.names(f"{module}/kernel", len(scale) if scale.ndim else None)
        for name, place in names:
            row = ... if place.layer is None else place.layer
            if scale[row].any() or down[row].any() or up[row].any():
                values |= _official(name.removesuffix(".weight"), scale[row], down[row], up[row])
    aside = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        infos = {name: TensorInfo(value.shape, value.dtype) for name, value in values.items()}
        write_tensors(aside, infos, values.__getitem__)
        aside.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error}): choose a place you may write to") from error
    finally:
        aside.unlink(missing_ok=True)


def is_lora(file: TensorFile) -> bool:
    """Whether any tensor is named as in a LoRA file."""
    return any(name.startswith(PREFIX) for name in file.tensors)


def modules(file: TensorFile, abstract: Params) -> dict[str, list[Adapter]]:
    """The adapters of a LoRA file by their module's path in the DiT, e.g. "blocks/attn/qkv".

    Everything that headers show is checked, as in `load_lora`.
    """
    found = collections.defaultdict(list)
    for adapter in adapters(file, abstract):
        found[adapter.place.path.removesuffix("/kernel")].append(adapter)
    for parts in found.values():
        _check_alike(file, parts)
    return dict(found)


def adapters(file: TensorFile, abstract: Params) -> list[Adapter]:
    """The adapters of a LoRA file, all names and shapes checked against the DiT with `abstract` params."""
    if not is_lora(file):
        raise InputError(
            f"{file.path}: not a LoRA file: expected names that begin with {PREFIX!r}, got "
            f"{next(iter(file.tensors), None)!r}; give a LoRA of LongCat-Video"
        )
    parts: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for name in file.tensors:
        match = _NAME.fullmatch(name)
        if not match:
            raise InputError(f"{file.path}: key {name!r} is not a part of a LoRA: remove it or check the file")
        parts[match["module"]][match["part"]] = name
    kernels = flatten(abstract)
    return [_adapter(file, module.replace(DOT, "."), names, kernels) for module, names in parts.items()]


def _adapter(
    file: TensorFile, module: str, names: Mapping[str, str], kernels: Mapping[str, jax.ShapeDtypeStruct]
) -> Adapter:
    ups = sorted((part for part in names if part.startswith("lora_up.blocks.")), key=_block)
    if UP in names:
        ups = [UP, *ups]
    expected = [UP] if ups in ([], [UP]) else [f"lora_up.blocks.{k}.weight" for k in range(len(ups))]
    for part in (SCALE, DOWN, *expected):
        if part not in names:
            raise InputError(f"{file.path}: module {module!r} has no {part}: expected all parts; take a whole file")
    place, kernel = _locate(file, module, kernels)
    _, d_in, d_out = _sizes(place, kernel)
    down = file.tensors[names[DOWN]].shape
    G = len(ups)
    rank = down[0] // G if len(down) == 2 else 0
    if rank < 1:
        raise InputError(f"{file.path}: key {names[DOWN]!r} has shape {list(down)}, expected {G} groups of rows")
    _check(file, names[SCALE], (), module)
    _check(file, names[DOWN], (G * rank, d_in), module)
    for part in ups:
        _check(file, names[part], (d_out // G, rank), module)
    if d_out % G:
        raise InputError(f"{file.path}: module {module!r} has {G} groups, expected a divisor of its {d_out} outputs")
    return Adapter(place, names[SCALE], names[DOWN], tuple(names[part] for part in ups), rank)


def _locate(
    file: TensorFile, module: str, kernels: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[Place, jax.ShapeDtypeStruct]:
    """Where a module is in our pytree, and its kernel."""
    remedy = "give a LoRA of this model"
    try:
        place = DIT.locate(f"{module}.weight")
    except InputError:
        place = None
    if place is None or place.axes.order != LINEAR.order or place.path not in kernels:
        raise InputError(f"{file.path}: module {module!r} is not a linear layer of the DiT: {remedy}") from None
    kernel = kernels[place.path]
    if place.layer is not None and place.layer >= kernel.shape[0]:
        raise InputError(f"{file.path}: module {module!r}: the DiT has {kernel.shape[0]} blocks: {remedy}")
    return place, kernel


def _check(file: TensorFile, name: str, shape: tuple[int, ...], module: str) -> None:
    info = file.tensors[name]
    if info.shape != shape:
        raise InputError(
            f"{file.path}: key {name!r} has shape {list(info.shape)}, expected {list(shape)} for {module}: "
            "give a LoRA of this model"
        )
    if info.dtype.name not in READABLE:
        raise InputError(
            f"{file.path}: key {name!r} has dtype {info.dtype.name}, expected one of {', '.join(READABLE)}: "
            "convert the file first"
        )


def _check_alike(file: TensorFile, parts: list[Adapter]) -> None:
    """Blocks are stacked, so that one module has the same rank, groups and dtypes in all of them."""

    def kind(adapter: Adapter) -> tuple:
        return (
            adapter.rank,
            len(adapter.up),
            *(file.tensors[n].dtype.name for n in (adapter.down, *adapter.up)),
        )

    for adapter in parts[1:]:
        if kind(adapter) != kind(parts[0]):
            raise InputError(
                f"{file.path}: key {adapter.down!r}: rank, groups and dtypes are {kind(adapter)}, expected "
                f"{kind(parts[0])} as in {parts[0].down!r}: make them equal in all blocks"
            )


def _sizes(place: Place, kernel: jax.ShapeDtypeStruct) -> tuple[tuple[int, ...], int, int]:
    """The axes of stacked blocks, inputs and outputs of a linear layer's kernel."""
    layers = kernel.shape[: 0 if place.layer is None else 1]
    d_in, *out = kernel.shape[len(layers) :]
    return layers, d_in, math.prod(out)


def _shapes(parts: list[Adapter], kernel: jax.ShapeDtypeStruct) -> dict[str, jax.ShapeDtypeStruct]:
    """Of one module's arrays; the dtypes are not the file's."""
    layers, d_in, d_out = _sizes(parts[0].place, kernel)
    G, rank = len(parts[0].up), parts[0].rank
    shapes = {"down": (*layers, d_in, G * rank), "up": (*layers, G, rank, d_out // G), "scale": layers}
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}


def _stack(file: TensorFile, parts: list[Adapter], kernel: jax.ShapeDtypeStruct, dtype) -> dict[str, np.ndarray]:
    """One module's arrays, zeros where the file has no layer."""
    shapes = _shapes(parts, kernel)
    scale = np.zeros(shapes["scale"].shape, np.float32)
    down = np.zeros(shapes["down"].shape, dtype or file.tensors[parts[0].down].dtype)
    up = np.zeros(shapes["up"].shape, dtype or file.tensors[parts[0].up[0]].dtype)
    for adapter in parts:
        row = ... if adapter.place.layer is None else adapter.place.layer
        scale[row] = file.read(adapter.scale)
        down[row] = file.read(adapter.down).T
        up[row] = np.stack([file.read(name).T for name in adapter.up])
    return {"down": down, "up": up, "scale": scale}


def _official(module: str, scale: np.ndarray, down: np.ndarray, up: np.ndarray) -> dict[str, np.ndarray]:
    name = PREFIX + module.replace(".", DOT)
    ups = [UP] if len(up) == 1 else [f"lora_up.blocks.{k}.weight" for k in range(len(up))]
    tensors = {f"{name}.{SCALE}": np.asarray(scale), f"{name}.{DOWN}": down.T}
    return tensors | {f"{name}.{part}": matrix.T for part, matrix in zip(ups, up, strict=True)}


def _block(part: str) -> int:
    return int(part.split(".")[2])
