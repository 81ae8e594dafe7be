"""Layers that the models share: the Dense that knows LoRA, and norms whose statistics are float32."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array
KERNEL_SCALE = "kernel_scale"


class Dense(nn.Module):
    """Linear layer (..., in) -> (..., *features), computed in `dtype`, plus the active LoRA adapters' outputs.

    features: the width of the outputs, or for fused projections (G, width): G outputs on an axis of their own, so that
    each can be cut over devices in the same way.

    Adapters are read from the "lora" collection, where this module's variable "adapters" maps an adapter's name to
    {"down": (in, g r), "up": (g, r, out / g), "scale": ()}: g groups, as a rule G, each mapping its own r rows of the
    hidden to its own slice of all outputs. Several adapters add up; without the collection there are none. A float32
    layer multiplies in full float32 on every backend, also inside a bfloat16 model.

    A kernel may be quantised (`models/quantised.py`): then "kernel_scale", (*features) float32, stands beside it.
    """

    features: int | tuple[int, int]
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer | None = None
    bias_init: nn.initializers.Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(self, x: Array) -> Array:
        precision = "highest" if self.dtype == jnp.float32 else None
        features = (self.features,) if isinstance(self.features, int) else self.features
        init = self.kernel_init or nn.initializers.xavier_uniform(in_axis=0, out_axis=range(1, 1 + len(features)))
        kernel = self.param("kernel", init, (x.shape[-1], *features), self.param_dtype)
        x = x.astype(self.dtype)
        y = jnp.tensordot(x, kernel.astype(self.dtype), axes=1, precision=precision)
        if self.has_variable("params", KERNEL_SCALE):
            y = (y.astype(jnp.float32) * self.get_variable("params", KERNEL_SCALE)).astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, features, self.param_dtype)
            y = y + spread(bias, y)
        if self.has_variable("lora", "adapters"):
            adapters = self.get_variable("lora", "adapters")
            for name in sorted(adapters):
                y = y + lora_delta(x, adapters[name], precision).reshape(y.shape)
        return y


def spread(parameter: Array, like: Array) -> Array:
    """A bias or scale (*features) in the shape (..., *features) and dtype of `like`.

    It is rounded after it is spread, so that its gradient, a sum over all tokens, adds up in the parameter's own dtype.
    """
    return jnp.broadcast_to(parameter, like.shape).astype(like.dtype)


def lora_delta(x: Array, adapter: Mapping[str, Array], precision: str | None = None) -> Array:
    """What one adapter adds, (..., in) -> (..., g, out / g), computed in x's dtype. Its scale is not trained."""
    up = adapter["up"].astype(x.dtype)
    hidden = jnp.matmul(x, adapter["down"].astype(x.dtype), precision=precision)
    parts = jnp.split(hidden, len(up), axis=-1)
    outs = [jnp.matmul(part, u, precision=precision) for part, u in zip(parts, up, strict=True)]
    return jnp.stack(outs, axis=-2) * jax.lax.stop_gradient(adapter["scale"]).astype(x.dtype)


class RMSNorm(nn.Module):
    """x / rms(x) over the last axis: statistics in float32, cast back, then times the scale in x's dtype."""

    param_dtype: jnp.dtype
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        x32 = x.astype(jnp.float32)
        normed = x32 * jax.lax.rsqrt(jnp.square(x32).mean(-1, keepdims=True) + self.epsilon)
        return normed.astype(x.dtype) * spread(scale, x)


class LayerNorm(nn.Module):
    """Layer norm with affine parameters, computed in float32, returned in x's dtype."""

    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), self.param_dtype)
        return (layer_norm(x) * scale.astype(jnp.float32) + bias.astype(jnp.float32)).astype(x.dtype)


def layer_norm(x: Array, epsilon: float = 1e-6) -> Array:
    """Layer norm over the last axis without parameters; float32 out whatever comes in."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)


def lora_collection(adapters: Mapping[str, Mapping]) -> dict:
    """The "lora" collection in which these adapters are active.

    adapters: by name, nested dicts that mirror the DiT's modules and end in {"down", "up", "scale"}, stacked over
    blocks inside "blocks". Their outputs add up; a module that none of them has gets nothing.
    """
    collection: dict = {}
    for name, tree in adapters.items():
        _merge(collection, name, tree)
    return collection


def _merge(into: dict, name: str, tree: Mapping) -> None:
    if "down" in tree:
        into.setdefault("adapters", {})[name] = dict(tree)
        return
    for key, below in tree.items():
        _merge(into.setdefault(key, {}), name, below)
