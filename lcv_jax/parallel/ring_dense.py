"""The ring with dense attention."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import DenseAttention, Grid, joined
from lcv_jax.ops.attention_parts import Part, attend_part, part_gradients
from lcv_jax.parallel.ring import ring
from lcv_jax.parallel.slabs import real_tokens

Array = jax.Array

IMPLEMENTATIONS = ("xla", "xla_chunked")  # both names for the same here: the parts are chunked where they have to be


def dense_ring_attention(
    q: Array, k: Array, v: Array, *, axes: Sequence[str], inner: DenseAttention, grid_k: Grid
) -> Array:
    """Attention of a device's share of the tokens, for any number of heads; inside shard_map.

    q: (B, A, S / n, h, d) and k, v: (B, A', S' / n, h, d), n the devices along `axes`; grid_k as in
    `ops.attention.Attention`. Returns (B, A, S / n, h, d). Raises InputError for an implementation of `inner` that has
    no ring.
    """
    if inner.implementation not in (None, *IMPLEMENTATIONS):
        raise InputError(
            f"attention {inner.implementation!r} has no ring, its log-sum-exp being too coarse: expected one of "
            f"{', '.join(IMPLEMENTATIONS)}, or tokens in parts that divide the heads, for Ulysses"
        )
    slabs, share = k.shape[1:3]
    real = real_tokens(grid_k, slabs)
    attention = _DensePart(slabs, share, real if real < share * jax.lax.axis_size(axes) else None)
    return ring(attention, tuple(axes), joined(q), joined(k), joined(v), ()).reshape(q.shape)


@dataclasses.dataclass(frozen=True)
class _DensePart:
    """A `ring.PartAttention`. share: tokens of a slab that a device holds; real: tokens of a whole slab without the
    padding at its end, None where there is none."""

    slabs: int
    share: int
    real: int | None

    def attend(self, q: Array, k: Array, v: Array, extra: Any, source: Array) -> Part:
        del extra
        return attend_part(q, k, v, self._mask(source))

    def gradients(
        self, q: Array, k: Array, v: Array, extra: Any, source: Array, d_out: Array, lse: Array, means: Array
    ) -> tuple[Array, Array, Array]:
        del extra
        return part_gradients(q, k, v, self._mask(source), d_out, lse, means)

    def _mask(self, source: Array) -> Array | None:
        """Which of the source's keys are real, (slabs * share,) bool."""
        if self.real is None:
            return None
        return jnp.tile(source * self.share + jnp.arange(self.share) < self.real, self.slabs)
