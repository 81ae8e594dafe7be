"""The named mesh that sampling and training share: how many devices each kind of parallelism gets."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from lcv_jax.errors import InputError

# The slowest first: devices that stand next to one another exchange most.
AXES = ("data", "fsdp", "context", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes; one of them may be -1, which is whatever devices are left.

    data: whole copies, each with its own part of the batch. fsdp: parameters and optimizer state are cut, and gathered
    layer by layer. context: the tokens of a video are cut. tensor: heads and the inner width of the FFN are cut.
    """

    data: int = 1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self):
        for axis, size in self.sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or (size < 1 and size != -1):
                raise InputError(
                    f"mesh axis {axis}={size!r}: expected a whole number of at least 1, or -1 for the rest"
                )
        if list(self.sizes.values()).count(-1) > 1:
            raise InputError(f"mesh {self}: only one axis can be -1, the rest of the devices")

    @property
    def sizes(self) -> dict[str, int]:
        """By axis, in the order of the mesh."""
        return {axis: getattr(self, axis) for axis in AXES}

    def __str__(self) -> str:
        named = [f"{axis}={size}" for axis, size in self.sizes.items() if size != 1]
        return ",".join(named) or "one device"

    @classmethod
    def parse(cls, text: str) -> "MeshConfig":
        """From "fsdp=4,context=2", in any order; axes left out are 1. Raises InputError."""
        sizes: dict[str, int] = {}
        for part in text.split(","):
            axis, equals, size = (piece.strip() for piece in part.partition("="))
            if axis not in AXES:
                raise InputError(f"mesh {text!r}: axis {axis!r} is not known, expected some of {', '.join(AXES)}")
            if axis in sizes:
                raise InputError(f"mesh {text!r}: axis {axis!r} is given twice")
            try:
                sizes[axis] = int(size)
            except ValueError:
                raise InputError(
                    f"mesh {text!r}: expected {axis}=N, a whole number, not {axis}{equals}{size}"
                ) from None
        return cls(**sizes)

    def filled(self, devices: int) -> "MeshConfig":
        """With the axis that is -1 worked out for so many devices. Raises InputError if they do not suit."""
        known = math.prod(size for size in self.sizes.values() if size > 0)
        for axis, size in self.sizes.items():
            if size == -1:
                if devices % known:
                    raise InputError(f"mesh {self}: {devices} devices do not divide by the other axes' {known}")
                return dataclasses.replace(self, **{axis: devices // known})
        if known > devices:
            raise InputError(f"mesh {self} needs {known} devices, there are {devices}: make an axis smaller")
        return self

    @property
    def devices(self) -> int:
        """How many it takes, once filled."""
        return math.prod(self.sizes.values())

    def make(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh over the first of `devices`, None for all there are.

        Raises InputError if there are too few, and if a process of several would be left without a device.
        """
        devices = list(jax.devices() if devices is None else devices)
        filled = self.filled(len(devices))
        taken = devices[: filled.devices]
        idle = {d.process_index for d in devices} - {d.process_index for d in taken}
        if idle:
            raise InputError(
                f"mesh {self} takes {len(taken)} of {len(devices)} devices and leaves none to process {min(idle)}: "
                "make it larger, or start fewer processes"
            )
        shape = tuple(filled.sizes.values())
        if len(taken) == len(devices) and taken[0].platform == "tpu":
            # Neighbours in the torus stand next to one another.
            placed = mesh_utils.create_device_mesh(shape, taken, allow_split_physical_axes=True)
        else:
            placed = np.array(taken).reshape(shape)
        return _auto(placed)


def _auto(devices: np.ndarray) -> Mesh:
    """Devices, an array with an axis for each of AXES, as a mesh on which the compiler completes the shardings."""
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_of(given: "Mesh | MeshConfig | str | None") -> Mesh | None:
    """What a user may give for a mesh, as a mesh with all of our axes: None stays None, text is parsed. Of a mesh the
    devices are taken: those that `jax.make_mesh` makes have explicit axes, on which a program has to say every sharding
    itself."""
    if given is None:
        return None
    if isinstance(given, Mesh):
        if tuple(given.axis_names) != AXES:
            raise InputError(f"mesh with axes {given.axis_names}: expected {AXES}; MeshConfig(...).make() gives one")
        return _auto(given.devices)
    if isinstance(given, str):
        given = MeshConfig.parse(given)
    if not isinstance(given, MeshConfig):
        raise InputError(f"mesh={given!r}: expected text such as 'fsdp=4,context=2', a MeshConfig or a mesh")
    return given.make()
