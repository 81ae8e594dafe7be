"""Reads a compiled step: what it holds, computes and sends on each device, beside what arithmetic expected."""

import dataclasses
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from lcv_jax.errors import InputError
from lcv_jax.models.precision import FLOAT32, Precision
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.parallel.hlo_collectives import read_collectives, sent_by_kind
from lcv_jax.parallel.plan import Asked

# What the compiler for TPUs says: of everything, or of the temporaries where they alone are too much.
_NEEDED = re.compile(r"Used ([\d.]+)([KMG]?) of [\d.]+[KMG]? hbm|required for HLO temporaries \(([\d.]+)([KMG]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclasses.dataclass(frozen=True)
class Target:
    """What a step is compiled for. source: how the output names it. precision: of the step."""

    source: str
    devices: tuple[Any, ...]
    precision: Precision


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One device's share of a compiled step. arguments: bytes that go in; temporaries: bytes that come and go. sent:
    bytes by kind of collective. seconds: to compile."""

    source: str
    arguments: int
    temporaries: int
    flops: int
    sent: Mapping[str, float]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Refused:
    """A compiler that knows its memory found too little. needed: bytes that it wanted."""

    source: str
    needed: int
    seconds: float


def target(asked: Asked) -> Target:
    """For a TPU the compiler of libtpu and a slice that need not be there; for a GPU virtual devices of the CPU, in
    float32, because a CPU emulates bfloat16. Raises InputError for a slice that cannot be, and without libtpu."""
    count, kind = asked.mesh.devices, asked.device
    if kind.tpu is None:
        return Target(f"XLA for a CPU as {count} devices, float32, attention not fused", tuple(jax.devices()), FLOAT32)
    name = kind.topology(count)
    try:
        slice_ = topologies.get_topology_desc(name, platform="tpu")
    except (RuntimeError, ImportError) as error:  # what libtpu says has many lines
        raise InputError(
            f"--device {kind.name}: no compiler for {name}: install libtpu (the extra 'tpu'); "
            f"{str(error).splitlines()[0][:120]}"
        ) from error
    return Target(f"libtpu's compiler for {name}", tuple(slice_.devices), asked.precision)


def needed_bytes(message: str) -> int | None:
    """What a compiler says it wanted when its device's memory did not do; None if that is not what it says."""
    found = _NEEDED.search(message)
    if found is None or not message.startswith("RESOURCE_EXHAUSTED"):
        return None
    return int(float(found[1] or found[3]) * _UNITS[found[2] or found[4] or ""])


def measure(lowered: Any, source: str) -> Compiled | Refused:
    """Compiles a lowered step (jax.stages.Lowered) and reads it."""
    start = time.perf_counter()
    try:
        program = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return Refused(source, needed, time.perf_counter() - start)
    seconds = time.perf_counter() - start
    memory, text = program.memory_analysis(), program.as_text()
    return Compiled(
        source=source,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=count_flops(text).total,
        sent=sent_by_kind(read_collectives(text)),
        seconds=seconds,
    )
