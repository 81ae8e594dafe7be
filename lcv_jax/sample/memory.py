"""Whether a run fits on the device, estimated before anything is allocated.

The estimate counts the large arrays that are alive together; what XLA really needs is within a factor of about two
(tests/sample/test_memory.py compares it with the compiler's own figure).
"""

import math
from typing import Any

import jax
import psutil

from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT
from lcv_jax.models.vae import WanVAE
from lcv_jax.ops.attention import LOGITS_BUDGET

GIB = 2**30


def free_bytes() -> int | None:
    """Memory that the first device can still give; of a CPU what the host has left; None if the backend is silent."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return psutil.virtual_memory().available
    stats = device.memory_stats()
    return None if not stats or "bytes_limit" not in stats else stats["bytes_limit"] - stats["bytes_in_use"]


def check(needed: int, what: str, remedy: str) -> None:
    """Raises InputError if `needed` bytes are not free."""
    free = free_bytes()
    if free is not None and needed > free:
        raise InputError(
            f"not enough device memory: {what} needs about {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free: "
            f"{remedy}"
        )


def tree_bytes(tree: Any) -> int:
    """Bytes of a pytree of arrays or jax.ShapeDtypeStruct."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def check_sampling(
    dit: DiT, vae: WanVAE, shape: tuple[int, ...], num_cond: int, guided: bool, text_tokens: int
) -> None:
    """Raises InputError if a run over latents of `shape` (B, T, h, w, C) does not fit beside the weights."""
    B, T, h, w, _ = shape
    needed = max(dit_bytes(dit, shape, num_cond, guided, text_tokens), vae_bytes(vae, h, w))
    side = vae.config.spatial_factor
    check(
        needed,
        f"sampling {B} x {T} latent frames at {h * side} x {w * side}",
        "choose a smaller size, fewer frames or fewer prompts at once",
    )


def dit_bytes(dit: DiT, shape: tuple[int, ...], num_cond: int, guided: bool, text_tokens: int) -> int:
    """One sampling step: the widest moment of a block, the residual stream, the latents and a condition cache."""
    c, item = dit.config, dit.precision.compute.itemsize
    B, T, h, w, C = shape
    rows = 2 * B if guided else B
    frame_tokens = (h // c.patch_size[1]) * (w // c.patch_size[2])
    tokens = rows * T * frame_tokens
    D = c.hidden_size
    # q, k and v before and after rotation and one of them in float32; or both SwiGLU branches and their product.
    widest = max(6 * D * item + 4 * D, 3 * c.ffn_size * item)
    stream = tokens * (widest + 2 * D * item + 2 * 4 * D)
    logits = min(4 * rows * c.num_heads * (T * frame_tokens) ** 2, LOGITS_BUDGET)
    text = rows * text_tokens * D * item * 4
    cache = 2 * c.depth * B * num_cond * frame_tokens * D * item
    latents = 8 * 4 * rows * T * h * w * C
    return stream + 2 * logits + text + cache + latents


def vae_bytes(vae: WanVAE, h: int, w: int) -> int:
    """One step of the decoder's stream: a handful of full-size feature maps of four frames, and its state."""
    c = vae.config
    pixels = c.temporal_factor * h * w * c.spatial_factor**2
    return 8 * pixels * c.base_dim * vae.precision.compute.itemsize
