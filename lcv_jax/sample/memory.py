"""Whether a run fits on the devices that it is for; `parallel/footprint.py` estimates what its parts need."""

import jax
import psutil
from jax.sharding import Mesh

from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.parallel import footprint
from lcv_jax.parallel.footprint import Backend, Cut, StepLoad
from lcv_jax.parallel.rules import SAMPLING

GIB = 2**30


def free_bytes() -> int | None:
    """Memory that the first device can still give; of a CPU what the host has left; None if the backend is silent."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return psutil.virtual_memory().available
    stats = device.memory_stats()
    return None if not stats or "bytes_limit" not in stats else stats["bytes_limit"] - stats["bytes_in_use"]


def check(needed: int, what: str, remedy: str, mesh: Mesh) -> None:
    """Raises InputError unless `needed` bytes are free on each device of the mesh; CPU devices share their host's."""
    free = free_bytes()
    if free is not None and mesh.devices.flat[0].platform == "cpu":
        free //= len(mesh.local_devices)
    if free is not None and needed > free:
        raise InputError(
            f"not enough device memory: {what} needs about {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free: "
            f"{remedy}"
        )


def step_bytes(dit: DiT, load: StepLoad, mesh: Mesh) -> int:
    """What one sampling step needs on a device beside the weights."""
    return footprint.step_moment(dit.config, dit.precision, load, Cut.of(SAMPLING, mesh.shape), Backend.here()).total


def vae_bytes(coder: VAECoder, mesh: Mesh, h: int, w: int, *methods: str) -> int:
    """What the autoencoder needs on a device for pictures of h x w latents. methods: "decode" or "encode", of which the
    larger counts; tiles are not cut over the mesh."""
    parts = mesh.size if coder.tiling is None else 1
    return max(footprint.vae_bytes(coder, h, w, method, parts) for method in methods)
