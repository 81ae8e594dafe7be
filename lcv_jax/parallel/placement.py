"""Everything that a mesh decides, behind one value: where parameters and activations lie, and which attention runs."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.models import axes as logical
from lcv_jax.ops.attention import Attention, DenseAttention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.context import ContextAttention
from lcv_jax.parallel.rules import Rules, spec

logger = logging.getLogger(__name__)

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class MeshPlacement:
    """A mesh and the rules by which arrays lie on it. Itself an `ops.placement.Placement`, to be handed to models.

    On a mesh of one device nothing is asked of the compiler, and attention is that of one device.
    """

    mesh: Mesh
    rules: Rules

    def __call__(self, x: Array, axes: Sequence[str | None]) -> Array:
        return x if self.mesh.size == 1 else jax.lax.with_sharding_constraint(x, self.sharding(axes, x.shape))

    def sharding(self, axes: Sequence[str | None], shape: Sequence[int], where: str = "an activation") -> NamedSharding:
        """Of an array with these logical axes; an axis that does not divide is cut less, or not at all."""
        return NamedSharding(self.mesh, spec(axes, shape, self.mesh, self.rules, where)[0])

    @property
    def batch_multiple(self) -> int:
        """What a batch has to divide by to be cut over all devices that can share it."""
        return math.prod(self.mesh.shape[axis] for axis in self.rules.batch)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, P())

    def params(self, config: Any, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """The shardings of a model's parameters; those that do not divide are whole everywhere, and logged once."""
        names = logical.parameter_axes(config, abstract)
        where, whole = _shardings(names, abstract, "", self)
        if whole:
            _log_whole(type(config).__name__.removesuffix("Config"), str(dict(self.mesh.shape)), tuple(whole))
        return where

    def lora(self, config: Any, abstract: Mapping[str, Any], adapter: Mapping[str, Any]) -> dict[str, Any]:
        """The shardings of a LoRA tree. abstract: the model's parameters. adapter: anything with shapes for leaves."""
        names = logical.parameter_axes(config, abstract)
        return _lora(names, abstract, adapter, "", self)

    def attention(self, inner: DenseAttention | BlockSparseAttention) -> Attention:
        """`inner` on this mesh; one that is on a mesh already stays as it is."""
        if self.mesh.size == 1 or isinstance(inner, ContextAttention):
            return inner
        r = self.rules
        return ContextAttention(self.mesh, inner, batch=r.batch, tokens=r.tokens, heads=r.heads)

    def put(self, x: Any, axes: Sequence[str | None] | None = None) -> Array:
        """An array that every process holds whole, onto the mesh; axes None: whole on every device."""
        where = self.replicated if axes is None else self.sharding(axes, np.shape(x))
        if isinstance(x, jax.Array) and (jax.process_count() == 1 or not x.is_fully_addressable):
            return jax.device_put(x, where)
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, where, lambda index: value[index])

    def gathered(self, x: Array) -> Array:
        """An array on the mesh whole on every device, so that every process can fetch it."""
        return x if x.is_fully_replicated or x.is_fully_addressable else _replicate(self.replicated)(x)

    def fetch(self, x: Array) -> np.ndarray:
        """An array on the mesh as every process's own copy."""
        return np.asarray(self.gathered(x))


@functools.cache
def _replicate(where: NamedSharding) -> Callable[[Array], Array]:
    return jax.jit(lambda x: x, out_shardings=where)


def _shardings(
    names: Mapping[str, Any], abstract: Mapping[str, Any], prefix: str, on: MeshPlacement
) -> tuple[dict[str, Any], list[str]]:
    """Shardings like the tree, and the paths of what a rule would have cut but that does not divide."""
    out, whole = {}, []
    for key, leaf in abstract.items():
        path = f"{prefix}{key}"
        if isinstance(leaf, Mapping):
            out[key], more = _shardings(names[key], leaf, f"{path}/", on)
            whole += more
            continue
        found, uncut = spec(names[key], leaf.shape, on.mesh, on.rules, path)
        out[key] = NamedSharding(on.mesh, found)
        if uncut:
            whole.append(path)
    return out, whole


def _lora(
    names: Mapping[str, Any], abstract: Mapping[str, Any], adapter: Mapping[str, Any], prefix: str, on: MeshPlacement
) -> dict[str, Any]:
    if "down" in adapter:
        stacked = np.ndim(adapter["scale"]) > 0
        axes = logical.lora_axes(names["kernel"], stacked=stacked)
        return {part: on.sharding(axes[part], np.shape(x), f"{prefix}{part}") for part, x in adapter.items()}
    return {key: _lora(names[key], abstract[key], below, f"{prefix}{key}/", on) for key, below in adapter.items()}


@functools.cache
def _log_whole(model: str, mesh: str, paths: tuple[str, ...]) -> None:
    logger.info("%s on mesh %s: whole on every device, because they do not divide: %s", model, mesh, ", ".join(paths))
