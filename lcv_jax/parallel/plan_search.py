"""Chooses a mesh for a number of devices, by the estimates of `plan`.

Sampling: a video gets at most one node (8 devices), further devices get videos of their own (data). Training: one
sample for each place along data and fsdp. Among the meshes of powers of two that fit, the one with the least seconds
for a sample, products and communication one after the other; where none fits, the one that needs the least memory.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator

from lcv_jax.errors import InputError
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.plan import Asked, Estimate, estimate
from lcv_jax.parallel.plan_tasks import Kind

_NODE = 8


def choose(asked: Asked, devices: int) -> Asked:
    """The same with a mesh of so many devices, and a sample for each place that the batch is cut over.

    Raises InputError unless that is a power of two.
    """
    if devices < 1 or devices & (devices - 1):
        raise InputError(f"--devices {devices}: a mesh is chosen for powers of two; give --mesh instead")
    candidates = [_with_batch(dataclasses.replace(asked, mesh=mesh)) for mesh in _meshes(asked, devices)]
    return min(((one, estimate(one)) for one in candidates), key=lambda pair: _cost(*pair))[0]


def _meshes(asked: Asked, devices: int) -> Iterator[MeshConfig]:
    """All of powers of two whose tensor axis divides the heads and whose parts of the tokens are not mostly padding."""
    shared = min(devices, _NODE) if asked.task.kind is Kind.SAMPLE else None
    for exponents in itertools.product(range(devices.bit_length()), repeat=3):
        fsdp, context, tensor = (2**exponent for exponent in exponents)
        if devices % (fsdp * context * tensor) or asked.architecture.dit.num_heads % tensor or tensor > _NODE:
            continue
        data = devices // (fsdp * context * tensor)
        if shared is None or data * shared == devices:
            yield MeshConfig(data, fsdp, context, tensor)


def _with_batch(asked: Asked) -> Asked:
    return dataclasses.replace(asked, batch=asked.cut.batch)


def _cost(asked: Asked, found: Estimate) -> tuple[float, ...]:
    """What is least wanted first: not fitting, then seconds for a sample, then bytes."""
    device, total = asked.device, found.memory.total
    seconds = found.compute_seconds(device) + found.traffic_seconds(asked.mesh, device)
    missing = max(0, total - device.usable)
    return missing, seconds * asked.mesh.devices / asked.batch if not missing else math.inf, total
