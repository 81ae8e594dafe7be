"""The umT5 text encoder: a T5 encoder in which every layer owns its relative position bias.

Source: umT5 (arXiv 2304.09151) as LongCat-Video uses it. RMS norms without mean, no scaling of the attention
logits, gated GELU (tanh form), no biases, no embedding scale. Blocks are scanned: their parameters are
stacked along a leading layer axis. Untrained weights are T5's but for the bias. L is the number of text tokens, D the
model width.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.models.layers import Dense, RMSNorm
from lcv_jax.models.precision import Precision
from lcv_jax.models.umt5_config import UMT5Config

Array = jax.Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["states", "mask"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class TextStates:
    """Encoded prompts. states: (B, L, D) floats. mask: (B, L) bool, False at padding.

    States at padded positions are what the encoder computed there, not zeros. The constructor accepts
    anything, because JAX rebuilds the pytree around tracers, specs and None; `checked` is the door for what
    users bring.
    """

    states: Array
    mask: Array

    def checked(self) -> "TextStates":
        """The same as JAX arrays, the mask as bool, all True where none was given; raises InputError on shapes that do
        not fit together."""
        states = jnp.asarray(self.states)
        mask = jnp.ones(states.shape[:2], bool) if self.mask is None else jnp.asarray(self.mask)
        if states.ndim != 3 or not jnp.issubdtype(states.dtype, jnp.floating):
            raise InputError(
                f"text states: shape {states.shape}, dtype {states.dtype}; expected floats of shape "
                "(batch, tokens, width)"
            )
        if mask.shape != states.shape[:2]:
            raise InputError(f"text mask: shape {mask.shape}, expected {states.shape[:2]} like the states")
        return TextStates(states, mask.astype(bool))


def relative_buckets(length: int, num_buckets: int, max_distance: int) -> np.ndarray:
    """The bias bucket of every relative position from 1 - length to length - 1, (2 * length - 1,) int32.

    Relative position is key minus query. Positions up to 0 use the lower half of the buckets, positive ones
    the upper half. Of S = num_buckets / 2 buckets a side, the first E = S / 2 hold one distance each;
    bucket E + j starts at the smallest distance n with (n / E)^(S - E) >= (max_distance / E)^j. Integers
    decide it, so that distances at which both sides are equal (16, 32, 64 of 128) never depend on how a
    logarithm is rounded.
    """
    side = num_buckets // 2
    exact = side // 2
    starts = list(range(1, exact + 1))
    steps = side - exact
    distance = exact
    for j in range(1, steps):
        while distance**steps * exact**j < max_distance**j * exact**steps:
            distance += 1
        starts.append(distance)
    position = np.arange(1 - length, length)
    bucket = np.searchsorted(starts, np.abs(position), side="right")
    return (bucket + np.where(position > 0, side, 0)).astype(np.int32)


class UMT5Attention(nn.Module):
    """Self-attention with a relative position bias and unscaled logits: (B, L, D) -> (B, L, D)."""

    config: UMT5Config
    precision: Precision

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        c, (B, L, D) = self.config, x.shape
        dense = functools.partial(_dense, precision=self.precision)
        # Untrained queries are smaller, because nothing scales the logits.
        variances = {"q": 1 / c.d_kv, "k": 1.0, "v": 1.0}
        q, k, v = (
            dense(c.num_heads * c.d_kv, variance=variance, name=name)(x).reshape(B, L, c.num_heads, c.d_kv)
            for name, variance in variances.items()
        )
        table = nn.Embed(
            c.relative_attention_num_buckets,
            c.num_heads,
            param_dtype=self.precision.param,
            # As large as the other part of the logits, where T5 has D^-1/2: heads that look at near tokens from the
            # start learn sooner which words belong together (in the toy world in a third of the steps).
            embedding_init=nn.initializers.normal(1.0),
            name="relative_attention_bias",
        ).embedding
        logits = jnp.einsum("blhd,bkhd->bhlk", q, k, preferred_element_type=jnp.float32)
        logits += self._bias(table.astype(jnp.float32), L)
        logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        weights = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        out = jnp.einsum("bhlk,bkhd->blhd", weights, v)
        return dense(D, name="o")(out.reshape(B, L, -1))

    def _bias(self, table: Array, L: int) -> Array:
        """(buckets, h) -> (h, L, L): row l, column k holds the bias of relative position k - l."""
        c = self.config
        buckets = relative_buckets(L, c.relative_attention_num_buckets, c.relative_attention_max_distance)
        position = np.arange(L)[None, :] - np.arange(L)[:, None]
        return table.T[:, buckets[position + L - 1]]


class UMT5FeedForward(nn.Module):
    """wo(gelu(wi_0 x) * wi_1 x), (B, L, D) -> (B, L, D)."""

    config: UMT5Config
    precision: Precision

    @nn.compact
    def __call__(self, x: Array) -> Array:
        dense = functools.partial(_dense, precision=self.precision)
        gate = jax.nn.gelu(dense(self.config.d_ff, name="wi_0")(x), approximate=True)
        return dense(x.shape[-1], name="wo")(gate * dense(self.config.d_ff, name="wi_1")(x))


class UMT5Block(nn.Module):
    """One layer. Takes and returns what `nn.scan` carries: (x, None)."""

    config: UMT5Config
    precision: Precision

    @nn.compact
    def __call__(self, x: Array, mask: Array) -> tuple[Array, None]:
        c, p = self.config, self.precision
        norm = functools.partial(RMSNorm, param_dtype=p.param, epsilon=c.layer_norm_epsilon)
        x = x + UMT5Attention(c, p, name="attention")(norm(name="attention_norm")(x), mask)
        x = x + UMT5FeedForward(c, p, name="ffn")(norm(name="ffn_norm")(x))
        self.sow("intermediates", "hidden", x)
        return x, None


class UMT5Encoder(nn.Module):
    """Token ids to text states."""

    config: UMT5Config
    precision: Precision

    @nn.compact
    def __call__(self, input_ids: Array, mask: Array) -> Array:
        """input_ids: (B, L) int. mask: (B, L) bool, False keys are not attended. Returns (B, L, D) in
        `precision.output`; padded positions carry values as well."""
        c, p = self.config, self.precision
        if input_ids.ndim != 2 or mask.shape != input_ids.shape:
            raise InputError(
                f"umT5: ids of shape {input_ids.shape} and mask of shape {mask.shape}, expected (batch, tokens) of both"
            )
        with p.products():
            embed = nn.Embed(
                c.vocab_size,
                c.d_model,
                dtype=p.compute,
                param_dtype=p.param,
                embedding_init=nn.initializers.normal(1.0),
                name="shared",
            )
            x = embed(input_ids)
            blocks = nn.scan(
                UMT5Block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=c.num_layers,
            )
            x, _ = blocks(c, p, name="block")(x, mask.astype(bool))
            return RMSNorm(p.param, c.layer_norm_epsilon, name="final_norm")(x).astype(p.output)


def _dense(features: int, *, precision: Precision, name: str, variance: float = 1.0) -> Dense:
    """variance: of untrained outputs, for inputs of variance 1."""
    return Dense(
        features,
        dtype=precision.compute,
        param_dtype=precision.param,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(variance, "fan_in", "normal"),
        name=name,
    )
