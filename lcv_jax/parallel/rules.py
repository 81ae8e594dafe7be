"""Logical axes to partition specs, strictly: what is not understood raises and is never ignored.

Models name the axes of their arrays (`models/axes.py`, `ops/placement.py`); a `Rules` says which mesh axes cut them.
The same names serve parameters and activations, so that a mesh is described in one place.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Rules:
    """The mesh axes that cut each logical axis, the first the slowest.

    Parameters: embed is the width of the model, vocab the rows of an embedding, channels a convolution's outputs.
    Of both: heads, the joined channels of attention heads; mlp, the inner width of a feed-forward layer. Activations:
    batch; tokens, those of a slab (`ops.attention.Attention`). How the autoencoder's pictures are cut, `VideoCut` says.
    """

    batch: tuple[str, ...]
    tokens: tuple[str, ...]
    embed: tuple[str, ...] = ("fsdp",)
    channels: tuple[str, ...] = ("fsdp",)
    vocab: tuple[str, ...] = ("tensor",)
    heads: tuple[str, ...] = ("tensor",)
    mlp: tuple[str, ...] = ("tensor",)

    def of(self, name: str, where: str) -> tuple[str, ...]:
        """The mesh axes of one logical axis; raises InputError for a name that is none."""
        names = [field.name for field in dataclasses.fields(self)]
        if name not in names:
            raise InputError(f"{where}: logical axis {name!r} is not known, expected one of {', '.join(names)} or None")
        return getattr(self, name)


# A sampling batch is a row or two: devices that share the weights share the tokens, or they would all do the same.
SAMPLING = Rules(batch=("data",), tokens=("fsdp", "context"))
# Devices that share a video keep their own part of the parameters and of the optimizer's state: 720p x 93 trains on
# one node then. In sampling they keep all of a layer, and nothing is gathered for it at every step.
TRAINING = Rules(batch=("data", "fsdp"), tokens=("context",), embed=("fsdp", "context"))


def spec(
    axes: Sequence[str | None], shape: Sequence[int], mesh: Mesh | AbstractMesh, rules: Rules, where: str
) -> tuple[P, tuple[str, ...]]:
    """How an array is cut, and which of its logical axes are not, because they do not divide.

    axes: a logical name for each axis of the array, None for one that is whole everywhere. where: what the array is,
    for messages. An axis whose size does not divide by its mesh axes' is cut by as many of them, from the first, as
    divide it. Raises InputError unless there are as many names as axes, for names that no rule knows, for mesh axes
    that the mesh lacks, and for one mesh axis that would cut two axes.
    """
    if len(axes) != len(shape):
        raise InputError(f"{where}: {len(axes)} logical axes {tuple(axes)} for shape {tuple(shape)}: expected one each")
    entries: list[Any] = []
    used: dict[str, str] = {}
    whole: list[str] = []
    for name, size in zip(axes, shape, strict=True):
        cut: tuple[str, ...] = ()
        if name is not None:
            wanted = rules.of(name, where)
            _claim(wanted, name, used, mesh, where)
            cut = dividing(wanted, size, mesh.shape)
            if _product(cut, mesh.shape) < _product(wanted, mesh.shape):
                whole.append(name)
        entries.append(cut if len(cut) > 1 else cut[0] if cut else None)
    while entries and entries[-1] is None:
        entries.pop()
    return P(*entries), tuple(whole)


def _claim(wanted: Sequence[str], name: str, used: dict[str, str], mesh: Mesh | AbstractMesh, where: str) -> None:
    for axis in wanted:
        if axis not in mesh.shape:
            raise InputError(
                f"{where}: the rule for {name!r} names mesh axis {axis!r}, the mesh has {tuple(mesh.shape)}"
            )
        if axis in used:
            raise InputError(f"{where}: mesh axis {axis!r} would cut both {used[axis]!r} and {name!r}")
        used[axis] = name


def dividing(wanted: Sequence[str], size: int, sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The longest beginning of `wanted` whose devices divide `size`; axes of one device are left out."""
    count = next(n for n in range(len(wanted), -1, -1) if size % _product(wanted[:n], sizes) == 0)
    return tuple(axis for axis in wanted[:count] if sizes[axis] > 1)


def _product(axes: Sequence[str], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes[axis] for axis in axes)
