"""Accelerators by name: memory, peak and bandwidths of one device, from their makers' public data sheets."""

import dataclasses

from lcv_jax.errors import InputError

GB = 10**9
GIB = 2**30

USABLE = 0.9
"""Share of a GPU's memory that a plan may fill; the rest is for the CUDA context, the buffers of NCCL, cuBLAS and
cuDNN, and fragmentation."""


@dataclasses.dataclass(frozen=True)
class Device:
    """One device. memory: bytes. flops: dense bfloat16 FLOP/s at the peak. hbm: bytes/s of its memory. node: devices
    that share the fast links. link: bytes/s that a device sends over those; network: and beyond them. Links are counted
    in one direction, half of what makers print. tpu: libtpu's name of the kind, None for a GPU."""

    name: str
    memory: int
    flops: float
    hbm: float
    node: int
    link: float
    network: float
    tpu: str | None = None

    @property
    def usable(self) -> int:
        """Bytes that a plan may fill. The compiler for TPUs keeps its own reserve and refuses what does not fit."""
        return self.memory if self.tpu else int(USABLE * self.memory)

    def topology(self, devices: int) -> str:
        """libtpu's name for a slice of so many chips, as near to a cube (or square) as powers of two allow."""
        axes = {"v5p": 3, "v5e": 2, "v6e": 2}[self.tpu]
        if devices < 4 or devices & (devices - 1):
            raise InputError(
                f"--device {self.name}: {devices} devices are no slice of a TPU: expected a power of two from 4 on"
            )
        doublings = devices.bit_length() - 1
        sides = sorted(2 ** (doublings // axes + (axis < doublings % axes)) for axis in range(axes))
        return f"{self.tpu}:{'x'.join(map(str, sides))}"


# NVIDIA: data sheets of the H100 SXM5 (80 GB HBM3, 3.35 TB/s, 989 TFLOP/s dense bfloat16, NVLink 900 GB/s), of the H200
# SXM (141 GB HBM3e, 4.8 TB/s, the rest alike) and of the A100 SXM 80 GB (2.04 TB/s, 312 TFLOP/s, NVLink 600 GB/s); the
# H800 is an H100 with NVLink at 400 GB/s. Nodes of 8; DGX H100 and H200 have one 400 Gbit/s port a GPU, DGX A100 one of
# 200 Gbit/s.
# Google: Cloud TPU's system architecture pages. v5p: 95 GiB, 2765 GB/s, 459 TFLOP/s, links 1200 GB/s a chip both ways,
# 8960 chips a pod. v5e: 16 GiB, 819 GB/s, 197 TFLOP/s, 400 GB/s, 256 chips. v6e: 32 GiB, 1638 GB/s, 918 TFLOP/s,
# 800 GB/s, 256 chips. Data centre network 50, 25 and 100 Gbit/s a chip.
# fmt: off
DEVICES = {
    device.name: device
    for device in (
        Device("h100-80gb", 80 * GB, 989e12, 3.35e12, 8, 450e9, 50e9),
        Device("h200-141gb", 141 * GB, 989e12, 4.8e12, 8, 450e9, 50e9),
        Device("h800-80gb", 80 * GB, 989e12, 3.35e12, 8, 200e9, 50e9),
        Device("a100-80gb", 80 * GB, 312e12, 2.04e12, 8, 300e9, 25e9),
        Device("tpu-v5p", 95 * GIB, 459e12, 2.765e12, 8960, 600e9, 6.25e9, "v5p"),
        Device("tpu-v5e", 16 * GIB, 197e12, 0.819e12, 256, 200e9, 3.125e9, "v5e"),
        Device("tpu-v6e", 32 * GIB, 918e12, 1.638e12, 256, 400e9, 12.5e9, "v6e"),
    )
}
# fmt: on


def named(name: str) -> Device:
    """Raises InputError for a name that is not in the table."""
    if name not in DEVICES:
        raise InputError(f"--device {name!r} is not known: expected one of {', '.join(DEVICES)}")
    return DEVICES[name]
