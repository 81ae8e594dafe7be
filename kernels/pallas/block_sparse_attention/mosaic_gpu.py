"""Block sparse attention on Hopper GPUs: the entry of the Mosaic GPU kernels, with their derivatives.

Three kernels (forward; dq; dk and dv) share one skeleton, `mosaic_gpu_stream`: a producer warpgroup copies the chosen
blocks into a ring of stages, consumer warpgroups compute on their own tiles of 64 tokens, and neighbours share what
several of them chose (`mosaic_gpu_schedule`). docs/kernels.md has the arithmetic.

Products take bfloat16 or float16 and add up in float32; the weights are rounded to that type before they meet the
values. Softmax is float32, in base 2.
"""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_kernels.pallas.block_sparse_attention import mosaic_gpu_backward as backward
from lcv_kernels.pallas.block_sparse_attention import mosaic_gpu_schedule as schedules
from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu_config import Config, Tiling, choose, supports
from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu_forward import forward
from lcv_kernels.pallas.block_sparse_attention.registry import Call
from lcv_kernels.pallas.block_sparse_attention.xla import KEPT, vary_alike

__all__ = ["Config", "Tiling", "attend", "choose", "refuses", "supports"]

Array = jax.Array

# H100, H200, H800, H20, GH200, as the driver names them.
HOPPER = re.compile(r"\bG?H(100|200|800|20)\b")


def refuses(call: Call, config: Any) -> str | None:
    """Why the kernels do not take a call with this config; None: they do."""
    if call.platform not in ("gpu", "cuda") or not HOPPER.search(call.device_kind):
        return f"it needs a Hopper GPU, not {call.device_kind!r} ({call.platform})"
    if config is not None and not isinstance(config, Config):
        return f"its config is a mosaic_gpu.Config, not {config!r}"
    return supports(call.dtype, call.head_dim, call.block_q, call.block_k, config)


def attend(
    q: Array,
    k: Array,
    v: Array,
    indices: Array,
    counts: Array,
    *,
    block_q: int,
    block_k: int,
    config: Config | None = None,
    interpret: Any = False,
) -> tuple[Array, Array]:
    """Attention of every query block over its key blocks: out (B, N, heads, d) like q, lse (B, heads, N) float32.

    q: (B, N, heads, d); k, v: (B, K, heads, d), in block order, bfloat16 or float16. indices: (B, heads, Nq, R) int32,
    the key blocks of a query block, in any order, the first counts (B, heads, Nq) of them valid. A row without any
    gets out 0, lse -inf and gradients 0. lse is the natural logarithm of the sum of exp(q . k / sqrt(d)).

    Differentiable in q, k and v, through out and lse. config: None takes what was measured or the rule (`choose`).
    interpret: False, or the parameters of JAX's GPU interpret mode.

    Raises ValueError for what the kernels do not support (`supports` says why).
    """
    reason = supports(q.dtype, q.shape[-1], block_q, block_k, config)
    if reason is not None:
        raise ValueError(f"the Mosaic GPU kernels do not support this call: {reason}")
    if indices.shape[-1] == 0:
        indices = jnp.zeros((*indices.shape[:-1], 1), indices.dtype)
    cut = _Cut(block_q, block_k, config or choose(q.shape[-1], block_q, block_k), interpret)
    return _attend(cut, *vary_alike(q, k, v, indices, counts))


@dataclasses.dataclass(frozen=True)
class _Cut:
    """What is fixed when a call is traced."""

    block_q: int
    block_k: int
    config: Config
    interpret: Any

    def schedule(self, indices: Array, counts: Array, num_keys: int, tiling: Tiling) -> schedules.Schedule:
        """The key blocks of neighbouring query blocks."""
        queries, keys, valid = schedules.pairs(indices, counts)
        group = tiling.group(self.block_q)
        return schedules.merge(
            queries, keys, valid, num_rows=indices.shape[2], num_columns=num_keys // self.block_k, group=group
        )

    def inverse(self, indices: Array, counts: Array, num_keys: int, tiling: Tiling) -> schedules.Schedule:
        """The query blocks of neighbouring key blocks."""
        queries, keys, valid = schedules.pairs(indices, counts)
        group = tiling.group(self.block_k)
        return schedules.merge(
            keys, queries, valid, num_rows=num_keys // self.block_k, num_columns=indices.shape[2], group=group
        )

    def kernel(self, tiling: Tiling) -> dict[str, Any]:
        return {"block_q": self.block_q, "block_k": self.block_k, "tiling": tiling, "interpret": self.interpret}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(cut: _Cut, q: Array, k: Array, v: Array, indices: Array, counts: Array) -> tuple[Array, Array]:
    tiling = cut.config.forward
    schedule = cut.schedule(indices, counts, k.shape[1], tiling)
    return forward(q, k, v, schedule, **cut.kernel(tiling))


def _attend_forward(cut, q, k, v, indices, counts):
    out, lse = checkpoint_name(_attend(cut, q, k, v, indices, counts), KEPT)
    return (out, lse), (q, k, v, indices, counts, out, lse)


def _attend_backward(cut, saved, gradients):
    q, k, v, indices, counts, out, lse = saved
    dout, dlse = gradients
    stats = backward.statistics(out, lse, dout, dlse)
    arguments = (q, k, v, dout.astype(q.dtype), stats)
    rows, columns = cut.config.dq, cut.config.dkv
    dq = backward.dq(*arguments, cut.schedule(indices, counts, k.shape[1], rows), **cut.kernel(rows))
    dk, dv = backward.dkv(*arguments, cut.inverse(indices, counts, k.shape[1], columns), **cut.kernel(columns))
    return dq, dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)
