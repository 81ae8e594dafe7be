"""What rests in the host's memory while the devices have no use for it (JAX's memory kind "pinned_host").

NVIDIA GPUs, TPUs and CPUs have that kind. On a CPU host and device memory are the same, so that nothing is
saved, but the arrays and programs are those of other backends and can be tested.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from lcv_jax.errors import InputError

HOST = "pinned_host"
PARTS = ("text_encoder", "kv_cache")
"""What can be offloaded, by name: the text encoder's parameters, the condition's keys and values."""


def parts(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """What to offload, from "text_encoder,kv_cache" or a sequence. Raises InputError for names not in PARTS."""
    names = given.split(",") if isinstance(given, str) else given or ()
    names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    for name in names:
        if name not in PARTS:
            raise InputError(f"offload {name!r} is not known: expected some of {', '.join(PARTS)}")
    return names


def check(mesh: Mesh) -> None:
    """Raises InputError unless every device of the mesh that this process has can use the host's memory."""
    for device in mesh.local_devices:
        check_kinds(device.device_kind, [memory.kind for memory in device.addressable_memories()])


def check_kinds(device: str, kinds: Sequence[str]) -> None:
    """Raises InputError unless HOST is among the memory kinds of a device, which is named in the message."""
    if HOST not in kinds:
        raise InputError(
            f"offload: {device} keeps no arrays in the host's memory (it has {', '.join(kinds)}, expected {HOST}): "
            "leave offload out, or use a backend that does"
        )


def resting(shardings: Any) -> Any:
    """The same shardings in the host's memory."""
    return jax.tree.map(lambda where: where.with_memory_kind(HOST), shardings)


def on_devices(arrays: Any) -> Any:
    """Arrays that rest in the host's memory copied to their shards on the devices; others as they are."""

    def brought(x: jax.Array) -> jax.Array:
        where = x.sharding
        return jax.device_put(x, where.with_memory_kind(None)) if where.memory_kind == HOST else x

    return jax.tree.map(brought, arrays)
