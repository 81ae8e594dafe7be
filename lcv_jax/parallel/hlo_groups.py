"""Which devices a collective of an HLO module joins.

XLA writes the groups in three ways, all of which are read here:

    replica_groups={{0,1},{2,3}}                      listed; {} is all devices
    replica_groups=[2,4]<=[4,2]T(1,0)                 numbers 0..7 reshaped, transposed, reshaped to 2 groups of 4
    replica_groups=mesh['a'=2,'b'=4] {'b'}            all devices that differ in the named axes alone
"""

import math
import re

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.parallel.hlo_text import Instruction

Groups = tuple[tuple[int, ...], ...]

_LISTED = re.compile(r"(?:^|, )replica_groups=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"(?:^|, )replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"(?:^|, )replica_groups=@?mesh[\w.]*\[([^\]]*)\](, device_ids=\([^)]*\)+)? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\((\d+)\)(\d+))?")
_IDS = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")


def groups(collective: Instruction, devices: int) -> Groups:
    """The groups of device numbers that exchange data among themselves. devices: of the whole program.

    Raises InputError for a way of writing them that is not known.
    """
    text = collective.attributes
    if found := _LISTED.search(text):
        listed = re.findall(r"\{([\d,]*)\}", found[1])
        return tuple(_numbers(group) for group in listed) if listed else (tuple(range(devices)),)
    if found := _IOTA.search(text):
        ids = _iota(_numbers(found[2]), _numbers(found[3] or ""))
        return _rows(ids.reshape(_numbers(found[1])))
    if found := _MESH.search(text):
        return _of_mesh(found[1], found[2] or "", found[3])
    raise InputError(
        f"{collective.name!r}: its replica_groups are written in a way that is not known, "
        f"{text[text.find('replica_groups') :][:80]!r}: expected lists, [2,4]<=[8] or mesh[...]"
    )


def pairs(permute: Instruction) -> Groups:
    """(source, target) of every transfer of a collective-permute."""
    found = re.findall(r"\{(\d+),(\d+)\}", permute.attribute("source_target_pairs"))
    return tuple((int(source), int(target)) for source, target in found)


def _of_mesh(axes: str, device_ids: str, varying: str) -> Groups:
    sizes = {name: int(size) for name, size, *_ in _AXIS.findall(axes)}
    if order := _IDS.search(device_ids):
        ids = _iota(_numbers(order[1]), _numbers(order[2] or ""))
    else:
        ids = np.arange(math.prod(sizes.values()))
    # A named axis, or the part of one: 'a':(2)4 is the axis of size 4 in a = 2 x 4 x rest.
    shape, chosen = [], []
    parts = {name: (int(before), int(size)) for name, _, before, size in _AXIS.findall(varying) if size}
    names = {name for name, *_ in _AXIS.findall(varying)}
    for name, size in sizes.items():
        before, inner = parts.get(name, (1, size))
        pieces = (before, inner, size // (before * inner))
        chosen += [len(shape) + 1] if name in names else []
        shape += pieces
    rest = [axis for axis in range(len(shape)) if axis not in chosen]
    count = math.prod(shape[axis] for axis in chosen)
    return _rows(ids.reshape(shape).transpose(*rest, *chosen).reshape(-1, count))


def _iota(shape: tuple[int, ...], order: tuple[int, ...]) -> np.ndarray:
    ids = np.arange(math.prod(shape)).reshape(shape)
    return (ids.transpose(order) if order else ids).reshape(-1)


def _rows(ids: np.ndarray) -> Groups:
    return tuple(tuple(int(i) for i in row) for row in ids)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)
