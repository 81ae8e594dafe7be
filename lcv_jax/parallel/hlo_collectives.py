"""What the devices of a compiled program send one another, read from its optimised HLO.

Every all-gather, all-reduce, reduce-scatter, all-to-all, collective-permute and collective-broadcast is read, the
asynchronous forms and those inside fusions too, times the trip counts of the loops around it.

An all-reduce of which every device keeps but a slice is read as a reduce-scatter: the partitioner writes the former,
and the compilers for GPUs and TPUs make the latter of it, after or before the text that is read here.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Mapping

import numpy as np

from lcv_jax.parallel import hlo_groups
from lcv_jax.parallel.hlo import Compiled
from lcv_jax.parallel.hlo_text import Computation, Instruction, Module, parse
from lcv_jax.parallel.hlo_walk import Walk

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_SMALLER = {"pred": 1.0, "token": 0.0, "opaque": 0.0}  # bytes of what does not end in its number of bits
_DEVICES = re.compile(r"\b(num_partitions|replica_count)=(\d+)")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of one device's program.

    kind: of KINDS. operand: bytes that a device puts in. sent: bytes that a device sends in one execution, of n in a
    group: (n - 1) operands to gather, (n - 1) / n of one to scatter or exchange, twice that to all-reduce, all of it to
    permute; as rings and direct exchanges do. groups: of device numbers, pairs (source, target) for a permute. times:
    how often it runs. dtypes: of the operands. source: the operation it came from, "jit(f)/while/body/dot_general".
    """

    kind: str
    operand: float
    sent: float
    groups: hlo_groups.Groups
    times: int
    dtypes: tuple[str, ...]
    source: str

    @property
    def total(self) -> float:
        """Bytes that a device sends in one run of the program."""
        return self.times * self.sent

    def axes(self, mesh: Mapping[str, int]) -> tuple[str, ...]:
        """The mesh axes along which the devices of a group differ. mesh: axis -> size, in the order of the devices."""
        shape = tuple(mesh.values())
        places = np.array([np.unravel_index(group, shape) for group in self.groups[0:1]])[0]  # (axes, group)
        return tuple(name for name, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1)


def read_collectives(program: Compiled | str) -> tuple[Collective, ...]:
    """The collectives of a compiled program or of its optimised HLO text; those of groups of one are left out.

    Raises InputError for a text that is no optimised HLO, for device groups written in an unknown way, and for a
    collective in a loop whose trip count is not known.
    """
    text = program if isinstance(program, str) else program.as_text()
    module = parse(text)
    devices = math.prod(int(count) for _, count in _DEVICES.findall(text.split("\n", 1)[0]))
    walk = Walk(
        lambda computation, instruction: _collectives(module, computation, instruction, devices),
        lambda collective: collective.sent,
        "its collectives",
    )
    found = (dataclasses.replace(found.item, times=found.times) for found in walk.items(module))
    return tuple(collective for collective in found if collective.sent)


def sent_by_kind(collectives: tuple[Collective, ...]) -> dict[str, float]:
    """Bytes that a device sends in one run, by kind; kinds that do not occur are left out."""
    total = collections.Counter()
    for collective in collectives:
        total[collective.kind] += collective.total
    return {kind: total[kind] for kind in KINDS if total[kind]}


def _collectives(
    module: Module, computation: Computation, instruction: Instruction, devices: int
) -> tuple[Collective, ...]:
    """What one instruction is: none, one, or for an all-reduce of several arrays one for each of them."""
    kind = instruction.opcode.removesuffix("-start").removeprefix("ragged-")
    if kind not in KINDS:
        return ()
    if kind == "collective-permute":
        groups = tuple(pair for pair in hlo_groups.pairs(instruction) if pair[0] != pair[1])
        count = 2 if groups else 1
    else:
        groups = hlo_groups.groups(instruction, devices)
        count = len(groups[0])
    sliced = _sliced(module, computation, instruction) if kind == "all-reduce" else ()
    kinds = ["reduce-scatter" if i in sliced else kind for i in range(len(instruction.operands))]
    found = []
    for kind in dict.fromkeys(kinds):
        mine = [name for name, of in zip(instruction.operands, kinds, strict=True) if of == kind]
        operands = [computation.instructions[name] for name in mine]
        size = sum(_bytes(operand) for operand in operands)
        dtypes = tuple(dict.fromkeys(dtype for operand in operands for dtype in operand.dtypes))
        sent = sent_bytes(kind, size, count)
        found.append(Collective(kind, size, sent, groups, 1, dtypes, instruction.source))
    return tuple(found)


def sent_bytes(kind: str, operand: float, count: int) -> float:
    """Bytes that each of `count` devices sends for one collective of KINDS with `operand` bytes on each."""
    if count == 1:
        return 0.0
    share = {
        "all-gather": count - 1,
        "all-reduce": 2 * (count - 1) / count,
        "reduce-scatter": (count - 1) / count,
        "all-to-all": (count - 1) / count,
    }
    return operand * share.get(kind, 1.0)


def _sliced(module: Module, computation: Computation, reduce: Instruction) -> set[int]:
    """The operands of an all-reduce of whose sums nothing but slices is taken, at an offset of the device's own."""
    name = reduce.name
    if reduce.opcode.endswith("-start"):
        name = next(i.name for i in computation.instructions.values() if name in i.operands)
    if len(reduce.operands) == 1:
        return {0} if _only_sliced(module, computation, name) else set()
    elements = [i for i in computation.instructions.values() if name in i.operands]
    if any(element.opcode != "get-tuple-element" for element in elements):
        return set()
    return {e.integers("index")[0] for e in elements if _only_sliced(module, computation, e.name)}


def _only_sliced(module: Module, computation: Computation, name: str) -> bool:
    users = [i for i in computation.instructions.values() if name in i.operands]
    return bool(users) and name != computation.root and all(_slices(module, user, name) for user in users)


def _slices(module: Module, user: Instruction, name: str) -> bool:
    if user.opcode == "dynamic-slice":
        return user.operands[0] == name
    if user.opcode != "fusion":
        return False
    (called,) = user.called("calls")
    inside = module.computations[called]
    parameters = [
        i.name for i in inside.instructions.values() if i.opcode == "parameter" and user.operands[int(i.inside)] == name
    ]
    users = [i for i in inside.instructions.values() if set(parameters) & set(i.operands)]
    return bool(users) and all(i.opcode == "dynamic-slice" and i.operands[0] in parameters for i in users)


def _bytes(instruction: Instruction) -> float:
    return sum(math.prod(s) * _item(d) for s, d in zip(instruction.shapes, instruction.dtypes, strict=True))


def _item(dtype: str) -> float:
    """Bytes of one element: bf16 2, f8e4m3fn 1, s4 0.5."""
    if dtype in _SMALLER:
        return _SMALLER[dtype]
    return int(re.match(r"[a-z]+(\d+)", dtype)[1]) / 8
