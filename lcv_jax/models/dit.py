"""The diffusion transformer (LongCat-Video report section 3; SPEC section 2), blocks scanned.

The network predicts the velocity towards data, v = x0 - noise. Time t is in [0, 1]: 0 is data, 1 is noise; each latent
frame has its own. Condition frames stand first, noise-free, at t = 0. They attend only to one another and get nothing
from the text, so their keys and values do not change over the sampling steps: `condition` computes them once, and a
call with that cache holds the noisy frames only.

With block sparse attention the tokens are regrouped block by block once, after patch embedding, and back at the end.
Inside, tokens stand on two axes, slabs of frames and the tokens of a slab (`Geometry`): a mesh cuts the second, so that
each device has all frames of its part of the picture, and condition frames are cut off and put in front where they are.

Hidden states (token states after patch embedding and after every block, the time and the text embedding) are sown into
the "intermediates" collection: `apply(..., mutable="intermediates")` returns them, otherwise they cost nothing. After
blocks they stand in the order of the attention.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.dit_embed import PatchEmbedder, TextEmbedder, TimeEmbedder, patches
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.layers import Dense, LayerNorm, RMSNorm, layer_norm
from lcv_jax.models.precision import Precision
from lcv_jax.models.remat import Remat
from lcv_jax.ops.attention import Attention, dense_attention
from lcv_jax.ops.placement import Placement, anywhere
from lcv_jax.ops.rope import Rope, rope, rotate

Array = jax.Array
Space = jax.memory.Space
F32 = jnp.float32
Grid = tuple[int, int, int]
TOKENS = ("batch", None, "tokens", None)  # the logical axes of (B, A, S, D)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["k", "v"], meta_fields=["frames", "block"])
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Keys (after k_norm, BEFORE rotation) and values of the condition tokens, of every layer.

    k, v: (layers, B, A, S, h, d), the tokens as the attention that the cache was made with wants them, padding
    included; on the device or in the host's memory. B divides the running batch, and each row serves as many rows that
    follow one another: 1 serves any, and that of the prompts a guided batch, in which every prompt follows its negative
    one. frames: condition latent frames. block: the order of the tokens.
    """

    k: Array
    v: Array
    frames: int
    block: Grid | None = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["velocity", "cache"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class ConditionPass:
    """What the pass over the condition frames yields; the velocity (B, T, H, W, C) is of no use in sampling."""

    velocity: Array
    cache: KVCache


class DiT(nn.Module):
    """The velocity network. attention: among the video's tokens; cross_attention: of video tokens to text tokens;
    placement: of the tokens on a mesh; remat: what blocks keep for the backward pass; cache_memory: where the condition
    pass leaves keys and values."""

    config: DiTConfig
    precision: Precision
    attention: Attention = dense_attention
    cross_attention: Attention = dense_attention
    placement: Placement = anywhere
    remat: Remat = Remat.NONE
    cache_memory: Space = Space.Device

    @nn.compact
    def __call__(
        self,
        latents: Array,
        t: Array,
        text_states: Array,
        text_mask: Array | None = None,
        *,
        num_cond: int = 0,
        cache: KVCache | None = None,
    ) -> Array:
        """Velocity (B, T, H, W, C) in float32.

        latents: (B, T, H, W, C) normalised, H and W even; with a cache only the noisy frames. t: (B, T) in [0, 1],
        0 for condition frames. text_states: (B, L, caption_channels). text_mask: (B, L) bool, None attends to all L.
        num_cond: condition frames at the front of latents; with a cache it may be left out, else must be the cache's.
        """
        grid = self._grid(latents)
        self._check(latents, t, text_states, text_mask)
        geometry = self._geometry(grid, *_check_cond(latents.shape[:2], num_cond, cache))
        if cache is not None and cache.block != geometry.block:
            raise InputError(
                f"the cache holds tokens in the order of {cache.block}, but the attention takes "
                f"{geometry.block}: make it with the same attention"
            )
        if cache is not None:
            _check_cache(cache, latents.shape[0], geometry)
        with self.precision.products():
            text = self._embed_text(text_states, text_mask)
            return self._run(latents, t, geometry, text, cache)[0]

    @nn.compact
    def condition(self, latents: Array) -> ConditionPass:
        """One pass over clean condition latents (B, n, H, W, C) at t = 0 without text, which fills the cache."""
        grid = self._grid(latents)
        geometry = self._geometry(grid)
        t = jnp.zeros(latents.shape[:2], F32)
        with self.precision.products():
            velocity, (k, v) = self._run(latents, t, geometry, None, None)
        return ConditionPass(velocity, KVCache(k, v, latents.shape[1], geometry.block))

    def _grid(self, latents: Array) -> Grid:
        if latents.ndim != 5:
            raise InputError(f"latents {latents.shape}: expected five axes (B, T, H, W, C)")
        _, T, H, W, C = latents.shape
        _, p, q = self.config.patch_size
        if self.config.in_channels != C or H % p or W % q:
            raise InputError(
                f"latents {latents.shape}: expected (B, T, H, W, {self.config.in_channels}) with H divisible by {p} "
                f"and W by {q}"
            )
        return T, H // p, W // q

    def _geometry(self, grid: Grid, cond: int = 0, cached: int = 0) -> Geometry:
        """A single frame, taken densely by every attention, stays in raster order."""
        block = None if grid[0] == 1 else self.attention.token_block
        return Geometry(grid, cond, cached, block, self.attention.parts)

    def _check(self, latents: Array, t: Array, text: Array, mask: Array | None) -> None:
        B, T = latents.shape[:2]
        if t.shape != (B, T):
            raise InputError(f"t {t.shape}: expected (B, T) = {(B, T)}, one for each latent frame")
        if text.ndim != 3 or text.shape[0] != B or text.shape[2] != self.config.caption_channels:
            raise InputError(f"text states {text.shape}: expected (B, L, D) = ({B}, L, {self.config.caption_channels})")
        if mask is not None and mask.shape != text.shape[:2]:
            raise InputError(f"text mask {mask.shape}: expected (B, L) = {text.shape[:2]}")

    def _embed_text(self, states: Array, mask: Array | None) -> tuple[Array, Array | None]:
        """Text tokens (B, L, D) and the mask that attention still needs."""
        y = TextEmbedder(self.config.hidden_size, self.precision, name="y_embedder")(states)
        self.sow("intermediates", "y_emb", y)
        if mask is not None and self.config.text_tokens_zero_pad:
            # Zeroed, and then attended like any other token.
            y, mask = y * mask[..., None].astype(y.dtype), None
        return self.placement(y, ("batch", None, None)), mask

    def _run(
        self,
        latents: Array,
        t: Array,
        geometry: Geometry,
        text: tuple[Array, Array | None] | None,
        cache: KVCache | None,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """Velocity, and without text every layer's keys and values."""
        c, p = self.config, self.precision
        # Cut over the mesh before they are as wide as the model, but not before they are in order: the compiler would
        # cut the picture itself and move all of it once more.
        given = self.placement(patches(latents, c.patch_size), ("batch", None, None, None, None))
        given = self.placement(geometry.slabs(given), (*TOKENS[:3], None, None, None))
        x = self.placement(PatchEmbedder(c.hidden_size, p, name="x_embedder")(given), TOKENS)
        self.sow("intermediates", "patch_embed", geometry.raster(x))
        t_emb = TimeEmbedder(c.adaln_tembed_dim, c.frequency_embedding_size, p, name="t_embedder")(t)
        self.sow("intermediates", "t_emb", t_emb)

        tables = _rope(geometry, c.head_dim)
        kept = self.remat is Remat.NONE
        blocks = nn.scan(
            Block if kept else nn.remat(Block, prevent_cse=False, policy=self.remat.policy),
            variable_axes={"params": 0, "lora": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            out_axes=0,
            length=c.depth,
        )(c, p, self.attention, self.cross_attention, self.placement, geometry, self.cache_memory, name="blocks")
        layers = None if cache is None else (cache.k, cache.v)
        x, keys_values = blocks(x, layers, t_emb, tables, text)
        out = FinalLayer(c, p, geometry, name="final_layer")(x, t_emb)
        return out.astype(p.output), keys_values


def _rope(geometry: Geometry, head_dim: int) -> Rope:
    """Tables (A, S, d) of the cached and the given tokens."""
    g = geometry
    frames = g.cached + g.grid[0]
    return Rope(*(g.slabs(table[None], frames)[0] for table in rope(g.frames(frames), head_dim)))


def _check_cond(shape: tuple[int, int], num_cond: int, cache: KVCache | None) -> tuple[int, int]:
    """Condition frames within the latents given, of shape (B, T), and in the cache."""
    frames = shape[1]
    if cache is None:
        if not 0 <= num_cond < frames:
            raise InputError(f"num_cond={num_cond} of {frames} latent frames: expected at least one noisy frame")
        return num_cond, 0
    if num_cond not in (0, cache.frames):
        raise InputError(f"num_cond={num_cond}, but the cache holds {cache.frames} condition frames: leave it out")
    return 0, cache.frames


def _check_cache(cache: KVCache, B: int, g: Geometry) -> None:
    """Raises InputError unless the cache's rows serve a batch of B and its tokens stand as the geometry's."""
    rows, slabs, tokens = cache.k.shape[1:4]
    if B % rows or (slabs, tokens) != (cache.frames // g.slab_frames, g.padded_tokens):
        raise InputError(
            f"the cache holds {rows} rows of {slabs} x {tokens} tokens: expected rows that divide the batch of {B} and "
            f"{cache.frames // g.slab_frames} x {g.padded_tokens} tokens, {cache.frames} frames of {g.grid[1]} x "
            f"{g.grid[2]}; make it from condition latents of this size"
        )


class Block(nn.Module):
    """Self-attention, cross-attention, SwiGLU. x: (B, A, S, D) in the compute dtype, the scan's carry."""

    config: DiTConfig
    precision: Precision
    attention: Attention
    cross_attention: Attention
    placement: Placement
    geometry: Geometry
    cache_memory: Space

    @nn.compact
    def __call__(
        self,
        x: Array,
        cached: tuple[Array, Array] | None,
        t_emb: Array,
        tables: Rope,
        text: tuple[Array, Array | None] | None,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        """cached: (k, v) of this layer or None. t_emb: (B, T, E). tables: of the cached and the given tokens. text:
        tokens (B, L, D) and their mask, or None in the condition pass, which alone returns this layer's (k, v)."""
        c, p, g = self.config, self.precision, self.geometry
        zeros = nn.initializers.zeros
        modulation = Dense((6, c.hidden_size), F32, p.param, kernel_init=zeros, name="adaLN_modulation")
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = jnp.moveaxis(modulation(nn.silu(t_emb)), -2, 0)

        attn = SelfAttention(c, p, self.attention, g, name="attn")
        y, keys_values = attn(modulate(x, shift_a, scale_a, g), cached, tables)
        x = gated(x, gate_a, y, g)

        if text is not None:
            n = g.cond_slabs
            noisy = x[:, n:]
            normed = LayerNorm(p.param, name="pre_crs_attn_norm")(noisy)
            noisy = noisy + CrossAttention(c, p, self.cross_attention, name="cross_attn")(normed, *text)
            x = jnp.concatenate([x[:, :n], noisy], axis=1) if n else noisy

        y = SwiGLU(c, p, name="ffn")(modulate(x, shift_f, scale_f, g))
        x = self.placement(gated(x, gate_f, y, g), TOKENS)
        self.sow("intermediates", "hidden", g.tokens(x))
        if text is not None:
            return x, None
        kept = tuple(self.placement(y, ("batch", None, "tokens", "heads", None)) for y in keys_values)
        # Layer by layer, so that the device never holds those of all layers.
        return x, kept if self.cache_memory is Space.Device else jax.device_put(kept, self.cache_memory)


def modulate(x: Array, shift: Array, scale: Array, geometry: Geometry) -> Array:
    """LayerNorm(x) * (1 + scale) + shift with one vector per latent frame (B, T, D); float32, returned in x's dtype."""
    normed = geometry.by_frame(layer_norm(x))
    shift, scale = geometry.of_frames(shift), geometry.of_frames(scale)
    return (normed * (1 + scale) + shift).reshape(x.shape).astype(x.dtype)


def gated(x: Array, gate: Array, y: Array, geometry: Geometry) -> Array:
    """x + gate * y with one gate per latent frame (B, T, D); float32, returned in x's dtype."""
    product = geometry.of_frames(gate) * geometry.by_frame(y.astype(F32))
    return (x.astype(F32) + product.reshape(x.shape)).astype(x.dtype)


class SelfAttention(nn.Module):
    """Attention among the video's tokens with 3-D RoPE."""

    config: DiTConfig
    precision: Precision
    attention: Attention
    geometry: Geometry

    @nn.compact
    def __call__(self, x: Array, cached: tuple[Array, Array] | None, tables: Rope) -> tuple[Array, tuple[Array, Array]]:
        """Tokens (B, A, S, D), and their keys before rotation and values, (B, A, S, h, d)."""
        c, p = self.config, self.precision
        B, slabs, _, D = x.shape
        dense = functools.partial(Dense, dtype=p.compute, param_dtype=p.param)
        qkv = dense((3, D), name="qkv")(x).reshape(*x.shape[:3], 3, c.num_heads, c.head_dim)
        q = RMSNorm(p.param, name="q_norm")(qkv[:, :, :, 0])
        k = RMSNorm(p.param, name="k_norm")(qkv[:, :, :, 1])
        v = qkv[:, :, :, 2]
        keys_values = k, v  # keys are kept before rotation
        if cached is not None:
            k, v = (
                jnp.concatenate([_rows(old, B).astype(new.dtype), new], axis=1)
                for old, new in zip(cached, (k, v), strict=True)
            )
        q, k = rotate(q, Rope(*(table[-slabs:] for table in tables))), rotate(k, tables)
        y = dense(D, name="proj")(self._attend(q, k, v).reshape(x.shape))
        return y, keys_values

    def _attend(self, q: Array, k: Array, v: Array) -> Array:
        """Condition tokens see one another only, noisy tokens see all."""
        g, n = self.geometry, self.geometry.cond_slabs
        T = g.grid[0]
        everything = g.frames(g.cached + T)
        noisy = self.attention(q[:, n:], k, v, grid_q=g.frames(T - g.cond), grid_k=everything)
        if not n:
            return noisy
        grid = g.frames(g.cond)
        cond = self.attention(q[:, :n], k[:, :n], v[:, :n], grid_q=grid, grid_k=grid)
        return jnp.concatenate([cond, noisy], axis=1)


def _rows(cached: Array, B: int) -> Array:
    """One layer's cache for a batch of B, on the device wherever it rests; done here, so that never more than one layer
    is there and repeated."""
    if jax.typeof(cached).memory_space is Space.Host:
        cached = jax.device_put(cached, Space.Device)
    return jnp.repeat(cached, B // cached.shape[0], axis=0)


class CrossAttention(nn.Module):
    """Attention of video tokens (B, A, S, D) to text tokens (B, L, D); no rotation."""

    config: DiTConfig
    precision: Precision
    attention: Attention

    @nn.compact
    def __call__(self, x: Array, text: Array, mask: Array | None) -> Array:
        c, p = self.config, self.precision
        D, heads = x.shape[-1], (c.num_heads, c.head_dim)
        dense = functools.partial(Dense, dtype=p.compute, param_dtype=p.param)
        q = dense(D, name="q_linear")(x).reshape(*x.shape[:3], *heads)
        kv = dense((2, D), name="kv_linear")(text).reshape(text.shape[0], 1, text.shape[1], 2, *heads)
        q = RMSNorm(p.param, name="q_norm")(q)
        k = RMSNorm(p.param, name="k_norm")(kv[:, :, :, 0])
        y = self.attention(q, k, kv[:, :, :, 1], key_mask=mask)
        return dense(D, name="proj")(y.reshape(x.shape))


class SwiGLU(nn.Module):
    """w2(silu(w1 x) * w3 x), without biases."""

    config: DiTConfig
    precision: Precision

    @nn.compact
    def __call__(self, x: Array) -> Array:
        p = self.precision
        dense = functools.partial(Dense, dtype=p.compute, param_dtype=p.param, use_bias=False)
        inner = nn.silu(dense(self.config.ffn_size, name="w1")(x)) * dense(self.config.ffn_size, name="w3")(x)
        return dense(x.shape[-1], name="w2")(inner)


class FinalLayer(nn.Module):
    """Tokens (B, A, S, D) -> latents (B, T, H, W, C) in float32. A token's outputs are ordered (T_p, H_p, W_p, C)."""

    config: DiTConfig
    precision: Precision
    geometry: Geometry

    @nn.compact
    def __call__(self, x: Array, t_emb: Array) -> Array:
        c, p, g = self.config, self.precision, self.geometry
        zeros = nn.initializers.zeros
        modulation = Dense((2, c.hidden_size), F32, p.param, kernel_init=zeros, name="adaLN_modulation")
        shift, scale = jnp.moveaxis(modulation(nn.silu(t_emb)), -2, 0)
        _, a, b = c.patch_size
        out = Dense(a * b * c.out_channels, F32, p.param, kernel_init=zeros, name="linear")(
            modulate(x, shift, scale, g)
        )
        T, H, W = g.grid
        out = g.raster(out).reshape(-1, T, H, W, a, b, c.out_channels).transpose(0, 1, 2, 4, 3, 5, 6)
        return out.reshape(-1, T, H * a, W * b, c.out_channels)
