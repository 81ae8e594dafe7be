"""Ring attention: tokens stay where they are, and keys and values go once around the devices.

arXiv 2310.01889. Each device attends to the keys that it holds at the moment and merges the result with what it had, so
that no more keys are in its memory than its own share and the next. In the backward pass keys and values go around
again, together with their gradients, which every device adds to and which are complete when they are back.

Keys are sent on while they are attended to; gradients are sent on while the next ones are computed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from lcv_jax.ops.attention import KEPT
from lcv_jax.ops.attention_parts import Part, merge, no_keys

Array = jax.Array


class PartAttention(Protocol):
    """Attention of a device's queries to the keys of one device, `source`; hashable, arrays in `extra`.

    q: (B, N, h, d); k, v: (B, K, h, d) of the source; source: int32, its index along the ring; extra: what else the
    attention needs, integer arrays that stay with the queries.
    """

    def attend(self, q: Array, k: Array, v: Array, extra: Any, source: Array) -> Part: ...

    def gradients(
        self, q: Array, k: Array, v: Array, extra: Any, source: Array, d_out: Array, lse: Array, means: Array
    ) -> tuple[Array, Array, Array]:
        """The part of the gradients of q, k and v, float32, that comes from these keys.

        d_out: (B, N, h, d), the gradient of the output; lse: (B, h, N) of all keys; means: (B, h, N), products of d_out
        and the output."""
        ...


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def ring(attention: PartAttention, axes: Sequence[str], q: Array, k: Array, v: Array, extra: Any) -> Array:
    """Attention of each device's q (B, N, h, d) to the k, v (B, K, h, d) of all devices along the mesh axes `axes`.

    Inside shard_map, all arrays varying over the same axes. Returns (B, N, h, d) in q's dtype; a query without any key
    gets 0.
    """
    return _forward(attention, axes, q, k, v, extra)[0]


def _forward(attention: PartAttention, axes: Sequence[str], q: Array, k: Array, v: Array, extra: Any):
    rank, size = jax.lax.axis_index(axes), jax.lax.axis_size(axes)

    def step(carry, i):
        whole, held = carry
        coming = _pass_on(held, axes)
        whole = merge(whole, attention.attend(q, *held, extra, (rank - i) % size))
        return (whole, coming), None

    (whole, held), _ = jax.lax.scan(step, (no_keys(q), (k, v)), jnp.arange(size - 1))
    whole = merge(whole, attention.attend(q, *held, extra, (rank + 1) % size))
    out, lse = checkpoint_name((whole.out.astype(q.dtype), whole.lse), KEPT)
    return out, (q, k, v, extra, out, lse)


def _backward(attention: PartAttention, axes: Sequence[str], saved, d_out: Array):
    q, k, v, extra, out, lse = saved
    rank, size = jax.lax.axis_index(axes), jax.lax.axis_size(axes)
    means = jnp.einsum("bnhd,bnhd->bhn", d_out.astype(jnp.float32), out.astype(jnp.float32))

    def add(d_q, d_held, held, source):
        """Adds what the keys held now give; d_held: what the device before has added up for them."""
        more_q, *more = attention.gradients(q, *held, extra, source, d_out, lse, means)
        return d_q + more_q, tuple(x + y for x, y in zip(_pass_on(d_held, axes), more, strict=True))

    def step(carry, i):
        d_q, d_held, held = carry
        coming = _pass_on(held, axes)
        return (*add(d_q, d_held, held, (rank - i) % size), coming), None

    zeros = [jnp.zeros_like(x, jnp.float32) for x in (q, k, v)]
    (d_q, d_held, held), _ = jax.lax.scan(step, (zeros[0], tuple(zeros[1:]), (k, v)), jnp.arange(size - 1))
    d_q, d_held = add(d_q, d_held, held, (rank + 1) % size)
    d_k, d_v = _pass_on(d_held, axes)
    return d_q.astype(q.dtype), d_k.astype(k.dtype), d_v.astype(v.dtype), None


ring.defvjp(_forward, _backward)


def _pass_on(arrays: tuple[Array, ...], axes: Sequence[str]) -> tuple[Array, ...]:
    """What each device holds goes to the one behind it."""
    size = jax.lax.axis_size(axes)
    return tuple(jax.lax.ppermute(x, axes, [(i, (i + 1) % size) for i in range(size)]) for x in arrays)
