"""What the devices of a mesh send one another in a step, by arithmetic, and how long that takes on given links."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from lcv_jax.models.remat import Remat
from lcv_jax.parallel.hlo_collectives import sent_bytes
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.plan_devices import Device
from lcv_jax.parallel.rules import Rules


@dataclasses.dataclass(frozen=True)
class Traffic:
    """A collective of the step. what: is sent. kind: of hlo_collectives.KINDS. operand: bytes that a device puts in.
    axes: of the mesh, along which its group lies. times: in one step."""

    what: str
    kind: str
    operand: float
    axes: tuple[str, ...]
    times: int

    def sent(self, mesh: MeshConfig) -> float:
        """Bytes that a device sends in one step."""
        return self.times * sent_bytes(self.kind, self.operand, _count(mesh, self.axes))

    def seconds(self, mesh: MeshConfig, device: Device) -> float:
        """At the full rate of the links, the slowest of them: those inside a node, or those between nodes, of which
        each member of the group in a node has its own and carries its share."""
        count, members = _count(mesh, self.axes), _members(mesh, self.axes, device.node)
        if count == 1:
            return 0.0
        sent = sent_bytes(self.kind, self.operand, count)
        if members == count:
            return self.times * sent / device.link
        if self.kind == "collective-permute":  # every hop waits for the one that leaves the node
            return self.times * sent / device.network
        if self.kind == "all-to-all":
            abroad = sent * (count - members) / (count - 1)
        else:
            nodes = count / members
            once = self.operand * (count if self.kind == "all-gather" else 2 if self.kind == "all-reduce" else 1)
            abroad = once * (nodes - 1) / nodes / members
        return self.times * max(sent / device.link, abroad / device.network)


def sent_by_kind(traffic: Iterable[Traffic], mesh: MeshConfig) -> dict[str, float]:
    """Bytes that a device sends in one step, by kind."""
    total: collections.Counter[str] = collections.Counter()
    for one in traffic:
        total[one.kind] += one.sent(mesh)
    return {kind: sent for kind, sent in total.items() if sent}


@dataclasses.dataclass(frozen=True)
class Block:
    """What a block of the DiT makes a device send.

    weights: its bytes in the compute dtype, of those that tensor parallelism leaves to a device. stream: bytes of a
    device's tokens at model width; inner: of the heads that it holds. heads: how many those are. depth: blocks.
    """

    weights: float
    stream: float
    inner: float
    heads: int
    depth: int


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Which parts of a block's forward pass run a second time in the backward pass, 1 or 0."""

    products: int
    attention: int

    @classmethod
    def under(cls, remat: Remat) -> "Repeated":
        return {
            Remat.NONE: cls(0, 0),
            Remat.DOTS: cls(0, 1),
            Remat.ATTENTION: cls(1, 0),
            Remat.FULL: cls(1, 1),
        }[remat]


def sampling(block: Block, mesh: MeshConfig, rules: Rules) -> tuple[Traffic, ...]:
    """One forward pass."""
    gathered = Traffic("weights", "all-gather", block.weights / _count(mesh, rules.embed), rules.embed, block.depth)
    attention = _attention(block, mesh, rules.tokens, Repeated(0, 0))
    return _present((gathered, *attention, *_tensor(block, rules, 3)), mesh)


def training(block: Block, mesh: MeshConfig, rules: Rules, again: Repeated) -> tuple[Traffic, ...]:
    """Forward and backward. Both passes gather the weights, once each."""
    share, depth = block.weights / _count(mesh, rules.embed), block.depth
    traffic = (
        Traffic("weights", "all-gather", share, rules.embed, 2 * depth),
        Traffic("gradients", "reduce-scatter", block.weights, rules.embed, depth),
        Traffic("gradients", "all-reduce", share, summed(mesh, rules), depth),
        *_attention(block, mesh, rules.tokens, again),
        *_attention_gradient(block, mesh, rules.tokens),
        *_tensor(block, rules, 3 * (2 + again.products)),
    )
    return _present(traffic, mesh)


def summed(mesh: MeshConfig, rules: Rules) -> tuple[str, ...]:
    """Mesh axes of more than one device over which gradients are summed, but not cut."""
    over = dict.fromkeys((*rules.batch, *rules.tokens))
    return tuple(axis for axis in over if axis not in rules.embed and mesh.sizes[axis] > 1)


def _attention(block: Block, mesh: MeshConfig, axes: tuple[str, ...], again: Repeated) -> tuple[Traffic, ...]:
    """Ulysses sends queries, keys, values and outputs, and all but the outputs again for a backward pass that has them;
    the ring sends keys and values once around."""
    parts, depth = _count(mesh, axes), block.depth
    if _ulysses(block, parts):
        times = 4 + max(4 * again.attention, 3 * again.products)
        return (Traffic("tokens for heads", "all-to-all", block.inner, axes, times * depth),)
    times = (parts - 1) * (1 + again.attention)
    return (Traffic("keys and values", "collective-permute", 2 * block.inner, axes, times * depth),)


def _attention_gradient(block: Block, mesh: MeshConfig, axes: tuple[str, ...]) -> tuple[Traffic, ...]:
    """Ulysses sends as much back; in the ring keys and values go around again, with their gradients."""
    parts = _count(mesh, axes)
    if _ulysses(block, parts):
        return _attention(block, mesh, axes, Repeated(0, 0))
    return (
        Traffic("keys and values", "collective-permute", 2 * block.inner, axes, (parts - 1) * block.depth),
        Traffic("their gradients", "collective-permute", 2 * block.inner, axes, parts * block.depth),
    )


def _ulysses(block: Block, parts: int) -> bool:
    return block.heads % parts == 0


def _tensor(block: Block, rules: Rules, times: int) -> tuple[Traffic, ...]:
    """Sums over heads and inner widths: after both attentions and the feed-forward layer, and backward before them."""
    return (Traffic("partial sums", "all-reduce", block.stream, rules.heads, times * block.depth),)


def _present(traffic: Iterable[Traffic], mesh: MeshConfig) -> tuple[Traffic, ...]:
    return tuple(one for one in traffic if one.times and _count(mesh, one.axes) > 1)


def _count(mesh: MeshConfig, axes: tuple[str, ...]) -> int:
    return int(np.prod([mesh.sizes[axis] for axis in axes]))


def _members(mesh: MeshConfig, axes: tuple[str, ...], node: int) -> int:
    """Devices of a group that share a node, nodes being filled one after the other in the order of the mesh."""
    sizes: Mapping[str, int] = mesh.sizes
    shape = tuple(sizes.values())
    index = tuple(slice(None) if axis in axes else 0 for axis in sizes)
    group = np.arange(np.prod(shape)).reshape(shape)[index].reshape(-1)
    return int(np.max(np.bincount(group // node)))
