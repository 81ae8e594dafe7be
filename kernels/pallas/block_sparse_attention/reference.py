"""The oracle: a dense softmax under the mask of the selected blocks, in float32, with JAX's own derivatives.

N x K logits per head; for tests and small sizes.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def attend(
    q: Array, k: Array, v: Array, indices: Array, counts: Array, *, block_q: int, block_k: int
) -> tuple[Array, Array]:
    """Arguments and results as of `attend_blocks`: out (B, N, heads, d) in q's dtype, lse (B, heads, N) float32."""
    mask = token_mask(indices, counts, k.shape[1] // block_k, block_q, block_k)
    logits = jnp.einsum("bnhd,bkhd->bhnk", *(x.astype(jnp.float32) for x in (q, k))) * q.shape[-1] ** -0.5
    # A row without keys gets harmless logits before the exponential and its true values after it, so that no
    # derivative meets an infinity.
    any_key = mask.any(-1)
    logits = jnp.where(mask, logits, jnp.where(any_key[..., None], -jnp.inf, 0.0))
    weights = jnp.where(mask, jax.nn.softmax(logits, -1), 0.0)
    lse = jnp.where(any_key, jax.nn.logsumexp(logits, -1), -jnp.inf)
    return jnp.einsum("bhnk,bkhd->bnhd", weights, v.astype(jnp.float32)).astype(q.dtype), lse


def token_mask(indices: Array, counts: Array, blocks: int, block_q: int, block_k: int) -> Array:
    """(B, heads, N, K) bool: which keys a query sees. `blocks` is the number of key blocks."""
    valid = jnp.arange(indices.shape[-1]) < counts[..., None]
    seen = (jnp.where(valid, indices, blocks)[..., None] == jnp.arange(blocks)).any(-2)
    return seen.repeat(block_q, -2).repeat(block_k, -1)
