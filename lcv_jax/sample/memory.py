"""Whether a run fits on the device, estimated before anything is allocated.

The estimate counts the large arrays that are alive together. tests/sample/test_memory.py compares it with the
compiler's own figures on small models: within a factor of two. At the published width the decoder of a 64 x 64 picture
came out at a quarter of what XLA wants on a CPU; larger pictures have not been compared.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import psutil

from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.vae import STREAM, WanVAE
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.ops import attention

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


@dataclasses.dataclass(frozen=True)
class StepLoad:
    """What one sampling step works on. latents: (B, T, h, w, C) of the frames that run through the network. passes: 2
    under guidance, else 1. cached: latent frames in the condition cache, in `cache_rows` rows. text_tokens: padded."""

    latents: tuple[int, int, int, int, int]
    passes: int
    cached: int
    cache_rows: int
    text_tokens: int


def step_bytes(dit: DiT, load: StepLoad) -> int:
    """One sampling step: the widest moment of a block, the residual stream, the latents and the condition cache."""
    c, item = dit.config, dit.precision.compute.itemsize
    B, T, h, w, C = load.latents
    rows, D = load.passes * B, c.hidden_size
    frame_tokens = (h // c.patch_size[1]) * (w // c.patch_size[2])
    tokens, keys = T * frame_tokens, (T + load.cached) * frame_tokens
    # q, k and v before and after rotation and one of them in float32; or both SwiGLU branches and their product.
    widest = max(6 * D * item + 4 * D, 3 * c.ffn_size * item)
    stream = rows * tokens * (widest + 2 * D * item + 2 * 4 * D)
    # The cached keys and values of one layer, rotated and put in front of the new ones, for every row.
    joined = 2 * rows * keys * D * item if load.cached else 0
    logits = attention.held_logits((rows, tokens, c.num_heads, D // c.num_heads), keys, dit.precision.compute)
    text = rows * load.text_tokens * D * item * 4
    cache = 2 * c.depth * load.cache_rows * load.cached * frame_tokens * D * item
    latents = 8 * 4 * rows * T * h * w * C
    return stream + joined + 2 * logits + text + cache + latents


@functools.cache
def vae_bytes(coder: VAECoder, h: int, w: int) -> int:
    """One step of the decoder's stream of h x w latents: a handful of feature maps as large as the picture, or its
    tile, of the frames of one step, and what every convolution keeps for the next step, for the whole picture."""
    c, precision = coder.config, coder.precision
    frames = coder.chunk * c.temporal_factor
    picture = h * w * c.spatial_factor**2
    at_once = picture if coder.tiling is None else min(picture, coder.tiling.size**2)
    tiles = 1.0 if coder.tiling is None else (coder.tiling.size / (coder.tiling.size - coder.tiling.overlap)) ** 2
    state = tree_bytes(_decoder_state(coder, h, w)) * (tiles if at_once < picture else 1)
    return int(8 * frames * at_once * c.base_dim * precision.compute.itemsize + state + 2 * 4 * 3 * frames * picture)


def _decoder_state(coder: VAECoder, h: int, w: int) -> Any:
    """The stream's state in the decoder, as jax.ShapeDtypeStruct."""
    vae = WanVAE(coder.config, coder.precision)
    z = jax.ShapeDtypeStruct((1, 1, h, w, coder.config.z_dim), jnp.float32)
    params = {"params": zoo.abstract_params(coder.config, coder.precision)}
    return jax.eval_shape(lambda p, z: vae.apply(p, z, method="decode", mutable=[STREAM])[1], params, z)
