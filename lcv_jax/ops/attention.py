"""The one entry for dense attention: softmax(q k' / sqrt(d)) v.

An ordered registry holds the implementations; the first that supports the call runs, and which one, and why those
before it did not, is logged once. All of them compute the softmax in float32.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

Array = jax.Array
Grid = tuple[int, int, int]

# Above this many bytes of float32 logits the queries are taken in chunks.
LOGITS_BUDGET = 1 << 28


@dataclasses.dataclass(frozen=True)
class _Call:
    """What decides which implementation runs; hashable, so that each choice is logged once."""

    backend: str
    dtype: str
    head_dim: int
    logits_bytes: int
    masked: bool


def dense_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    grid_q: Grid | None = None,
    grid_k: Grid | None = None,
    key_mask: Array | None = None,
    implementation: str | None = None,
) -> Array:
    """Every query attends to every key, scaled by 1 / sqrt(d).

    q: (B, N, h, d). k, v: (B, K, h, d), same dtype. key_mask: (B, K) bool, False keys are not attended; a row
    without any True gives the mean of v. grid_q, grid_k: the tokens' (T, H, W), unused here; they are part of the
    signature that the DiT calls, so that a sparse attention can stand in its place.
    implementation: "cudnn", "xla", "xla_chunked", or None for the first that supports the call.
    Returns (B, N, h, d) in q's dtype. Raises InputError for an implementation that is unknown or does not support it.
    """
    del grid_q, grid_k
    B, N, h, d = q.shape
    call = _Call(
        backend=jax.default_backend(),
        dtype=str(q.dtype),
        head_dim=d,
        logits_bytes=4 * B * h * N * k.shape[1],
        masked=key_mask is not None,
    )
    return _IMPLEMENTATIONS[_choose(call, implementation)].run(q, k, v, key_mask)


def _cudnn_refuses(call: _Call) -> str | None:
    if call.backend != "gpu":
        return f"the backend is {call.backend}, not gpu"
    if call.dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, not {call.dtype}"
    if call.head_dim % 8 or call.head_dim > 128:
        return f"head channels must be a multiple of 8 up to 128, not {call.head_dim}"
    return None


def _xla_refuses(call: _Call) -> str | None:
    if call.logits_bytes > LOGITS_BUDGET:
        return f"the logits would take more than {LOGITS_BUDGET / 2**20:.0f} MiB"
    return None


def _run(q: Array, k: Array, v: Array, key_mask: Array | None, *, implementation: str) -> Array:
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


def _run_chunked(q: Array, k: Array, v: Array, key_mask: Array | None) -> Array:
    B, N, h, d = q.shape
    rows = max(1, LOGITS_BUDGET // (4 * B * h * k.shape[1]))
    chunks = math.ceil(N / rows)
    rows = math.ceil(N / chunks)
    padded = jnp.pad(q, ((0, 0), (0, rows * chunks - N), (0, 0), (0, 0)))
    parts = padded.reshape(B, chunks, rows, h, d).swapaxes(0, 1)
    # Rematerialised, so that the backward pass does not keep the logits of all chunks either.
    attend = jax.checkpoint(lambda part: _run(part, k, v, key_mask, implementation="xla"))
    out = jax.lax.map(attend, parts)
    return out.swapaxes(0, 1).reshape(B, rows * chunks, h, d)[:, :N]


@dataclasses.dataclass(frozen=True)
class _Implementation:
    """run: the computation. refuses: why a call is not supported, None if it is."""

    run: Callable[[Array, Array, Array, Array | None], Array]
    refuses: Callable[[_Call], str | None]


_IMPLEMENTATIONS = {
    "cudnn": _Implementation(functools.partial(_run, implementation="cudnn"), _cudnn_refuses),
    "xla": _Implementation(functools.partial(_run, implementation="xla"), _xla_refuses),
    "xla_chunked": _Implementation(_run_chunked, lambda call: None),
}


@functools.cache
def _log_once(level: int, message: str) -> None:
    logger.log(level, message)


@functools.cache
def _choose(call: _Call, name: str | None) -> str:
    if name is not None:
        if name not in _IMPLEMENTATIONS:
            raise InputError(f"attention {name!r} is not known: expected one of {', '.join(_IMPLEMENTATIONS)}")
        if name != "xla" and (reason := _IMPLEMENTATIONS[name].refuses(call)):
            raise InputError(f"attention {name!r} does not support this call: {reason}")
        return name
    reasons = []
    for candidate, implementation in _IMPLEMENTATIONS.items():
        reason = implementation.refuses(call)
        if reason is None:
            slow = call.backend == "gpu" and candidate != "cudnn"
            because = "".join(f"; not {r}" for r in reasons)
            _log_once(logging.WARNING if slow else logging.INFO, f"dense attention: {candidate}{because}")
            return candidate
        reasons.append(f"{candidate}: {reason}")
    raise AssertionError("xla_chunked supports every call")
