"""The one entry for dense attention: softmax(q k' / sqrt(d)) v.

An ordered registry holds the implementations; the first that supports the call runs, and which one, and why those
before it did not, is logged once. All of them compute the softmax in float32.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

Array = jax.Array
Grid = tuple[int, int, int]

# The name by which rematerialisation knows what an attention among a video's tokens keeps for its backward pass: the
# output, and the log-sum-exps where there are any. That of `lcv_kernels`, which know nothing of this file, is the same.
KEPT = "attention"
# Above this many bytes of float32 logits the heads are taken one by one, and their queries in chunks.
LOGITS_BUDGET = 1 << 28


class Attention(Protocol):
    """What the DiT calls for attention; a value that is handed to it.

    Tokens of a video stand on two axes, (B, A, S, ...): A slabs of t frames, t being 1, or that of `token_block`; and
    the S tokens of a slab: raster order, or block by block (rows, then columns of blocks; inside a block t, h, w). So
    A and S taken together are the order of the whole video. S may be longer than a slab: what is behind is padding.

    q: (B, A, S, heads, d) of grid_q. k, v: (B, A', S', heads, d) of grid_k; the grids' last frames coincide. Grids are
    the tokens' (T, H, W), without padding; None where keys are no video, but (B, 1, L, heads, d) tokens. key_mask: (B,
    L) bool, False keys are not attended; only for such keys. Padding is attended by nobody, and what it attends to is
    finite and of no meaning. Returns (B, A, S, heads, d) in q's dtype.

    token_block: the (t, h, w) blocks in whose order it wants a video's tokens, instead of raster order; None: raster. A
    single frame is always raster, of one slab. parts: what the slabs' tokens, or blocks, have to be padded to a
    multiple of.

    It is a static argument of jitted functions: a frozen dataclass, so that equal settings compare equal and nothing
    is compiled twice.
    """

    @property
    def token_block(self) -> Grid | None: ...

    @property
    def parts(self) -> int: ...

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        grid_q: Grid | None = None,
        grid_k: Grid | None = None,
        key_mask: Array | None = None,
    ) -> Array: ...


def joined(x: Array) -> Array:
    """(B, A, S, ...) -> (B, N, ...): slabs without padding as the tokens of the whole video."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])


@dataclasses.dataclass(frozen=True)
class DenseAttention:
    """Every query attends to every key, scaled by 1 / sqrt(d). It runs on one device and takes no padding.

    implementation: "cudnn", "xla", "xla_chunked", or None for the first that supports the call on the default backend
    (give one when compiling for another). A row whose keys are all masked gives the mean of v. Under a mesh that cuts
    tokens, call it inside shard_map. Raises InputError for an implementation that is unknown or does not support it.
    """

    implementation: str | None = None

    @property
    def token_block(self) -> None:
        """Any order does."""
        return None

    @property
    def parts(self) -> int:
        return 1

    def __call__(
        self,
        q: Array,
        k: Array,
        v: Array,
        *,
        grid_q: Grid | None = None,
        grid_k: Grid | None = None,
        key_mask: Array | None = None,
    ) -> Array:
        del grid_q, grid_k
        return self.attend(joined(q), joined(k), joined(v), key_mask).reshape(q.shape)

    def attend(self, q: Array, k: Array, v: Array, key_mask: Array | None = None) -> Array:
        """The same on tokens (B, N, heads, d) and (B, K, heads, d)."""
        call = _Call(
            backend=jax.default_backend(),
            dtype=str(q.dtype),
            head_dim=q.shape[-1],
            logits_bytes=4 * q.shape[0] * q.shape[2] * q.shape[1] * k.shape[1],
            masked=key_mask is not None,
        )
        chosen = _choose(call, self.implementation)
        out = _IMPLEMENTATIONS[chosen].run(q, k, v, key_mask)
        # cuDNN's is known by its primitive (models/remat.py). Attention to fewer keys is cheap, not worth the memory.
        return checkpoint_name(out, KEPT) if chosen != "cudnn" and k.shape[1] >= q.shape[1] else out


dense_attention = DenseAttention()


def held_logits(shape: tuple[int, int, int, int], keys: int, dtype: jnp.dtype) -> int:
    """Bytes of float32 logits alive at once when q of `shape` (B, N, heads, d) attends to `keys` keys, none masked."""
    B, N, heads, d = shape
    call = _Call(jax.default_backend(), str(dtype), d, 4 * B * heads * N * keys, masked=False)
    return 0 if _cudnn_refuses(call) is None else min(call.logits_bytes, LOGITS_BUDGET)


@dataclasses.dataclass(frozen=True)
class _Call:
    """What decides which implementation runs."""

    backend: str
    dtype: str
    head_dim: int
    logits_bytes: int
    masked: bool


def _cudnn_refuses(call: _Call) -> str | None:
    if call.backend != "gpu":
        return f"the backend is {call.backend}, not gpu"
    if call.dtype not in ("bfloat16", "float16"):
        return f"it computes in bfloat16 or float16, not {call.dtype}"
    if call.head_dim % 8 or call.head_dim > 128:
        return f"head channels must be a multiple of 8 up to 128, not {call.head_dim}"
    if call.masked:
        return "it takes no key mask"
    return None


def _xla_refuses(call: _Call) -> str | None:
    if call.logits_bytes > LOGITS_BUDGET:
        return f"the logits would take more than {LOGITS_BUDGET / 2**20:.0f} MiB"
    return None


def _run(q: Array, k: Array, v: Array, key_mask: Array | None, *, implementation: str) -> Array:
    mask = None if key_mask is None else key_mask[:, None, None, :]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


def _run_chunked(q: Array, k: Array, v: Array, key_mask: Array | None) -> Array:
    """One head after the other, each in chunks of queries: long chunks, so that keys and values are read few times."""
    B, N, h, d = q.shape
    K = k.shape[1]
    chunks = math.ceil(4 * N * K / LOGITS_BUDGET)
    rows = math.ceil(N / chunks)
    q = jnp.pad(q, ((0, 0), (0, rows * chunks - N), (0, 0), (0, 0)))
    q = q.swapaxes(1, 2).reshape(B * h, chunks, 1, rows, 1, d)
    k, v = (x.swapaxes(1, 2).reshape(B * h, 1, K, 1, d) for x in (k, v))
    mask = None if key_mask is None else jnp.repeat(key_mask, h, axis=0)[:, None]

    def head(args: tuple[Array, Array, Array, Array | None]) -> Array:
        parts, *keys = args
        # Rematerialised, so that the backward pass does not keep the logits of all chunks either.
        attend = jax.checkpoint(lambda part: _run(part, *keys, implementation="xla"))
        return jax.lax.map(attend, parts)

    out = jax.lax.map(head, (q, k, v, mask))
    return out.reshape(B, h, rows * chunks, d)[:, :, :N].swapaxes(1, 2)


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
        if name == "cudnn" and (reason := _cudnn_refuses(call)):
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
