"""Weight-only quantisation for inference: the kernels of the blocks' projections in eight bits.

A kernel (in, *features) becomes q * scale, with q of the same shape in int8 or float8_e4m3fn and a float32 scale for
each output channel: its largest magnitude over the largest of the dtype. `Dense` multiplies by q in the compute dtype,
which holds q exactly, and then scales its outputs. Everything that is not a projection inside a block (embedders,
modulation, norms, biases, the final layer) and LoRA adapters stay as they are.

In parameter trees the scale stands beside its kernel, named "kernel_scale", with the same layer axis in front.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.models.layers import KERNEL_SCALE

Array = jax.Array
F32 = jnp.dtype("float32")
# Of the DiT, and of umT5.
_PROJECTION = re.compile(r"(blocks/(attn|cross_attn|ffn)|block/(attention|ffn))/[^/]+/kernel")


@dataclasses.dataclass(frozen=True)
class Quantisation:
    """How kernels are kept. dtype: int8 or float8_e4m3fn. largest: the finite magnitude that a channel's largest weight
    is mapped to."""

    dtype: jnp.dtype
    largest: float

    @classmethod
    def named(cls, name: str | None) -> "Quantisation | None":
        """ "int8" or "fp8"; None keeps the weights in their dtype. Raises InputError on other names."""
        if name is None:
            return None
        if name not in _NAMED:
            raise InputError(f"weights {name!r} are not known: expected {' or '.join(map(repr, _NAMED))}, or none")
        return _NAMED[name]

    def takes(self, path: str) -> bool:
        """Whether the parameter at this path of a model, such as "blocks/attn/qkv/kernel", is quantised."""
        return _PROJECTION.fullmatch(path) is not None

    def __call__(self, kernel: Array) -> tuple[Array, Array]:
        """Floats (in, *features) -> the same in `dtype`, and its scales (*features) in float32.

        |kernel - q * scale| is at most scale / 2 for int8; for float8 |kernel| / 16, or scale / 1024 near zero. Zeros
        and the largest of a channel stay what they are.
        """
        kernel = kernel.astype(F32)
        # A channel of zeros has some scale; what a normal float32 cannot hold is zero anyway.
        scale = jnp.maximum(jnp.abs(kernel).max(axis=0) / self.largest, jnp.finfo(F32).tiny)
        steps = kernel / scale
        whole = jnp.issubdtype(self.dtype, jnp.integer)
        return (jnp.round(steps) if whole else steps).astype(self.dtype), scale

    def abstract(self, params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
        """A model's parameters, jax.ShapeDtypeStruct leaves, as they are once quantised."""
        out: dict[str, Any] = {}
        for key, leaf in params.items():
            path = f"{prefix}{key}"
            if isinstance(leaf, Mapping):
                out[key] = self.abstract(leaf, f"{path}/")
            elif self.takes(path):
                out[key] = jax.ShapeDtypeStruct(leaf.shape, self.dtype)
                out[KERNEL_SCALE] = jax.ShapeDtypeStruct((leaf.shape[0], *leaf.shape[2:]), F32)
            else:
                out[key] = leaf
        return out


_NAMED = {
    "int8": Quantisation(jnp.dtype("int8"), 127.0),
    "fp8": Quantisation(jnp.dtype("float8_e4m3fn"), 448.0),
}
