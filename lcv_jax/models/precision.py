"""In which dtype parameters are kept, layers compute and outputs come out."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Precision:
    """Dtypes of one model run.

    param: the parameters' dtype. compute: matrix products, convolutions and the residual stream. output: what the
    model returns. The float32 islands (time embedding, modulation, norms' statistics, RoPE, softmax, gated residual
    additions, the DiT's final layer) stay float32 whatever stands here.
    """

    param: jnp.dtype
    compute: jnp.dtype
    output: jnp.dtype

    def products(self) -> contextlib.AbstractContextManager:
        """To be entered while a model is traced: a float32 model multiplies in full float32 on every backend, not in
        TF32 or passes of bfloat16. Every model enters it in its own methods, so callers need not."""
        if self.compute == jnp.float32:
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()

    @classmethod
    def named(cls, name: str | None) -> "Precision":
        """ "float32" or "bfloat16"; None is bfloat16, on a CPU float32."""
        if name is None:
            name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        if name not in ("float32", "bfloat16"):
            raise InputError(f"dtype {name!r} is not known: expected 'float32' or 'bfloat16'")
        return FLOAT32 if name == "float32" else BFLOAT16


_F32, _BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
FLOAT32 = Precision(param=_F32, compute=_F32, output=_F32)
BFLOAT16 = Precision(param=_BF16, compute=_BF16, output=_F32)
