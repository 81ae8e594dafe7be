"""Memory that the parts of a run need on one device, by arithmetic: the one estimate of the project.

The largest arrays that are alive together are counted; nothing is compiled or allocated. How near that comes to the
compiler's own figures is tested (tests/parallel/test_footprint.py) and printed by the planner beside each of its rows.
"""

import dataclasses
import enum
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import Precision
from lcv_jax.models.vae import STREAM, WanVAE
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.ops.attention import held_logits
from lcv_jax.parallel.rules import Rules

# Feature maps of picture size and base width that are alive at the widest moment of a stream's step, for each of its
# pixel frames. From XLA's CPU figures at the published width, float32: 8.5 at 480p and 720p decoding, 11.6 encoding.
_MAPS = {"decode": 8.5, "encode": 11.6}


def tree_bytes(tree: Any) -> int:
    """Bytes of a pytree of arrays or jax.ShapeDtypeStruct."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes(abstract: Any, shardings: Any) -> int:
    """Bytes that one device holds of a sharded tree."""
    pairs = zip(jax.tree.leaves(abstract), jax.tree.leaves(shardings), strict=True)
    return sum(math.prod(where.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, where in pairs)


@dataclasses.dataclass(frozen=True)
class Cut:
    """Into how many parts a mesh cuts each of these. weights: a block's weights at rest, beside what `heads` does."""

    batch: int = 1
    tokens: int = 1
    heads: int = 1
    weights: int = 1

    @classmethod
    def of(cls, rules: Rules, mesh: Mapping[str, int]) -> "Cut":
        """What the rules make of a mesh's sizes by axis."""
        axes = (rules.batch, rules.tokens, rules.heads, rules.embed)
        return cls(*(math.prod(mesh[name] for name in names) for names in axes))


@dataclasses.dataclass(frozen=True)
class StepLoad:
    """What one sampling step works on. latents: (B, T, h, w, C) of the frames that run through the network. passes: 2
    under guidance, else 1. cached: latent frames in the condition cache, in `cache_rows` rows. text_tokens: padded.
    cache_layers: of the cache on the device at once, where it rests in the host's memory; None: all."""

    latents: tuple[int, int, int, int, int]
    passes: int
    cached: int
    cache_rows: int
    text_tokens: int
    cache_layers: int | None = None


def block_bytes(config: DiTConfig, precision: Precision) -> int:
    """One block's weights in the compute dtype."""
    return sum(_kernels(config, precision))


@functools.cache
def _kernels(config: DiTConfig, precision: Precision) -> tuple[int, ...]:
    """Bytes of each array of a block's weights in the compute dtype."""
    stacked = jax.tree.leaves(zoo.abstract_params(config, precision)["blocks"])
    return tuple(math.prod(leaf.shape) // config.depth * precision.compute.itemsize for leaf in stacked)


class Attention(enum.StrEnum):
    """Whether logits are held: those that this process's attention holds, or none, as fused attention does."""

    HERE = "here"
    FUSED = "fused"


class Gathered(enum.StrEnum):
    """Weights that are cut are gathered array by array, each when it is wanted, or a block ahead of the one at work."""

    ARRAYS = "arrays"
    BLOCKS = "blocks"


@dataclasses.dataclass(frozen=True)
class Backend:
    """How a compiler spends memory, where they differ."""

    attention: Attention
    gathered: Gathered

    @classmethod
    def here(cls) -> "Backend":
        """Of this process."""
        return HOST if jax.default_backend() == "cpu" else cls(Attention.HERE, Gathered.BLOCKS)

    def logits(self, shape: tuple[int, int, int, int], keys: int, dtype: jnp.dtype) -> int:
        """Bytes of logits that are held while q of `shape` (B, N, heads, d) attends to so many keys."""
        return 0 if self.attention is Attention.FUSED else held_logits(shape, keys, dtype)

    def weights(self, config: DiTConfig, precision: Precision, cut: Cut) -> int:
        """Bytes of a block's weights at work, beside those at rest: taken out of their stack, and gathered."""
        block = block_bytes(config, precision) // cut.heads
        if cut.weights == 1:
            return block
        if self.gathered is Gathered.BLOCKS:
            return block // cut.weights + 2 * block
        return block // cut.weights + max(_kernels(config, precision)) // cut.heads


ACCELERATOR = Backend(Attention.FUSED, Gathered.BLOCKS)
"""A GPU or TPU with fused attention."""
HOST = Backend(Attention.HERE, Gathered.ARRAYS)
"""A CPU."""


@dataclasses.dataclass(frozen=True)
class Moment:
    """Bytes at the widest moment of a computation beside parameters: what lives through it, what comes and goes."""

    activations: int
    temporaries: int

    @property
    def total(self) -> int:
        return self.activations + self.temporaries


def step_moment(config: DiTConfig, precision: Precision, load: StepLoad, cut: Cut, backend: Backend) -> Moment:
    """One sampling step. Activations: the residual stream, the latents and the condition cache. Temporaries: the widest
    moment of a block, and its weights."""
    c, item = config, precision.compute.itemsize
    B, T, h, w, C = load.latents
    rows, D = -(-load.passes * B // cut.batch), c.hidden_size
    frame_tokens = (h // c.patch_size[1]) * (w // c.patch_size[2])
    share = -(-frame_tokens // cut.tokens)  # of a frame's tokens
    tokens, keys, heads = T * share, T + load.cached, c.num_heads // cut.heads
    # q, k and v before and after rotation and one of them in float32; or both SwiGLU branches and their product.
    widest = max(6 * D * item + 4 * D, 3 * c.ffn_size * item) // cut.heads
    block = rows * tokens * (widest + 2 * 4 * D)
    stream = rows * tokens * 2 * D * item
    # The cached keys and values of one layer, rotated and put in front of the new ones, for every row.
    joined = 2 * rows * keys * share * D // cut.heads * item if load.cached else 0
    held = backend.logits((rows, tokens, heads, c.head_dim), keys * frame_tokens, precision.compute)
    text = rows * load.text_tokens * D * item * 4
    cache_rows = -(-load.cache_rows // cut.batch)
    layers = c.depth if load.cache_layers is None else load.cache_layers
    cache = 2 * layers * cache_rows * load.cached * share * D // cut.heads * item
    latents = 8 * 4 * rows * T * h * w * C
    weights = backend.weights(c, precision, cut)
    return Moment(stream + text + cache + latents, block + joined + 2 * held + weights)


@functools.cache
def vae_bytes(coder: VAECoder, h: int, w: int, method: str = "decode", parts: int = 1) -> int:
    """One step of a stream of h x w latents, beside the weights.

    Feature maps as large as the picture, or its tile; what every convolution keeps for the next step, for the whole
    picture; the weights once more, in the order that convolutions want; and the frames. parts: devices that the picture
    is cut over.
    """
    c, precision = coder.config, coder.precision
    frames = coder.chunk * c.temporal_factor
    picture = h * w * c.spatial_factor**2
    at_once = picture if coder.tiling is None else min(picture, coder.tiling.size**2)
    tiles = 1.0 if coder.tiling is None else (coder.tiling.size / (coder.tiling.size - coder.tiling.overlap)) ** 2
    params, state = _stream_state(coder, h, w, method)
    kept = tree_bytes(state) * (tiles if at_once < picture else 1)
    maps = _MAPS[method] * frames * at_once * c.base_dim * precision.compute.itemsize
    video = 2 * 4 * 3 * frames * picture
    half = tree_bytes(params[f"{method}r"]) * precision.compute.itemsize // precision.param.itemsize
    return int((maps + kept + video) / parts + half)


def _stream_state(coder: VAECoder, h: int, w: int, method: str) -> tuple[Any, Any]:
    """Parameters of the model and the stream's state after a first step, as jax.ShapeDtypeStruct."""
    vae, factor = WanVAE(coder.config, coder.precision), coder.config.spatial_factor
    shape = (1, 1, h, w, coder.config.z_dim)
    if method == "encode":
        shape = (1, 1, h * factor, w * factor, coder.config.in_channels)
    params = zoo.abstract_params(coder.config, coder.precision)

    def run(params: Any, x: jax.Array) -> Any:
        return vae.apply({"params": params}, x, method=method, mutable=[STREAM])[1]

    return params, jax.eval_shape(run, params, jax.ShapeDtypeStruct(shape, jnp.float32))
