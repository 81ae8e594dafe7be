"""Context parallelism: attention among tokens that are cut over the devices of a mesh.

`ContextAttention` is an `ops.attention.Attention` like those of one device, so that a model which is given it does
not know. Two ways lead to the same result. Ulysses changes the cut from tokens to heads and back, moves the least
and runs one device's code unchanged, but needs a head for every part. The ring keeps the cut, and sends keys and
values once around.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

from lcv_jax.errors import InputError
from lcv_jax.ops.attention import DenseAttention, Grid, dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.ring_dense import dense_ring_attention
from lcv_jax.parallel.ring_sparse import sparse_ring_attention
from lcv_jax.parallel.slabs import real_tokens
from lcv_jax.parallel.ulysses import ulysses_attention

logger = logging.getLogger(__name__)

Array = jax.Array

KINDS = ("ulysses", "ring")


@dataclasses.dataclass(frozen=True)
class ContextAttention:
    """The attention `inner` of one device, on a mesh that cuts the batch, the tokens of a slab and the heads.

    batch, tokens, heads: the mesh axes that cut each of them, the first name the slowest. A batch is cut by as many of
    its axes, from the first, as divide it; devices along the others do the same. kind: "ulysses", "ring", or None for
    Ulysses where the heads that a device of `heads` holds divide by the parts that tokens are cut into, else the ring;
    the choice is logged once.

    Keys that are no video (text) are whole on every device of `tokens`; nothing is moved for them, and they are
    attended to densely. Raises InputError for axes that the mesh lacks or that serve twice, for heads and tokens that
    do not divide, and for what `inner` refuses.
    """

    mesh: Mesh | AbstractMesh
    inner: DenseAttention | BlockSparseAttention = dense_attention
    kind: str | None = None
    batch: tuple[str, ...] = ("data",)
    tokens: tuple[str, ...] = ("context",)
    heads: tuple[str, ...] = ("tensor",)

    def __post_init__(self):
        if self.kind is not None and self.kind not in KINDS:
            raise InputError(f"context parallelism {self.kind!r} is not known: expected one of {', '.join(KINDS)}")
        used = (*self.batch, *self.tokens, *self.heads)
        for axis in used:
            if axis not in self.mesh.shape:
                raise InputError(f"the mesh has no axis {axis!r}: expected one of {', '.join(self.mesh.shape)}")
            if used.count(axis) > 1:
                raise InputError(
                    f"the mesh axis {axis!r} is to cut more than one of batch {self.batch}, tokens {self.tokens} and "
                    f"heads {self.heads}: give each its own"
                )
        # Collectives number the devices of several axes as the mesh does, in whatever order these are named.
        in_order = tuple(axis for axis in self.mesh.shape if axis in self.tokens)
        if in_order != self.tokens:
            raise InputError(
                f"tokens are cut over mesh axes {self.tokens}: expected them in the mesh's order, {in_order}"
            )

    @property
    def token_block(self) -> Grid | None:
        return self.inner.token_block

    @property
    def parts(self) -> int:
        return self._devices(self.tokens)

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
        """As in `ops.attention.Attention`; the arrays are those of the whole mesh."""
        B, _, _, h, _ = q.shape
        if h % self._devices(self.heads):
            raise InputError(
                f"{h} heads do not divide by the {self._devices(self.heads)} devices of the mesh axes {self.heads}: "
                "take a number that divides them"
            )
        video = P(self._batch(B), None, self.tokens, self.heads)
        if grid_q is None or grid_k is None:
            return self._to_text(q, k, v, key_mask, video)
        if key_mask is not None:
            raise InputError("a key mask is for keys that are no video: leave it out, or the grids")
        for name, x, grid in (("q", q, grid_q), ("k", k, grid_k)):
            self._check(name, x, grid)
        local = self._local(self.method(h), grid_q, grid_k)
        return jax.shard_map(local, mesh=self.mesh, in_specs=(video,) * 3, out_specs=video)(q, k, v)

    def method(self, heads: int) -> str:
        """ "ulysses" or "ring" for arrays of so many heads. Raises InputError where kind names what cannot be."""
        return _choose(self.kind, heads // self._devices(self.heads), self.parts)

    def _local(self, method: str, grid_q: Grid, grid_k: Grid) -> Callable[[Array, Array, Array], Array]:
        """What each device computes of its share. A single frame is attended to densely under every attention."""
        if method == "ulysses":
            return functools.partial(
                ulysses_attention, axes=self.tokens, inner=self.inner, grid_q=grid_q, grid_k=grid_k
            )
        if isinstance(self.inner, BlockSparseAttention) and grid_q[0] > 1:
            return functools.partial(
                sparse_ring_attention, axes=self.tokens, inner=self.inner, grid_q=grid_q, grid_k=grid_k
            )
        dense = self.inner if isinstance(self.inner, DenseAttention) else dense_attention
        return functools.partial(dense_ring_attention, axes=self.tokens, inner=dense, grid_k=grid_k)

    def _batch(self, rows: int) -> tuple[str, ...] | None:
        """The axes that cut a batch of so many rows, as `rules.spec` chooses them too."""
        count = next(n for n in range(len(self.batch), -1, -1) if rows % self._devices(self.batch[:n]) == 0)
        return self.batch[:count] or None

    def _devices(self, axes: tuple[str, ...]) -> int:
        return math.prod(self.mesh.shape[axis] for axis in axes)

    def _check(self, name: str, x: Array, grid: Grid):
        """Raises InputError unless x (B, A, S, h, d) holds the grid in slabs that divide into parts."""
        block = self.token_block if grid[0] > 1 else None
        t, h, w = block or (1, 1, 1)
        unit = self.parts * t * h * w
        slabs, tokens = x.shape[1:3]
        if slabs * t != grid[0] or tokens % unit or tokens < real_tokens(grid, slabs):
            raise InputError(
                f"{name} holds {slabs} slabs of {tokens} tokens: expected one for every {t} of the {grid[0]} frames of "
                f"{grid[1]} x {grid[2]} tokens, padded to a multiple of {unit} ({self.parts} parts of "
                f"{'whole blocks' if block else 'tokens'})"
            )

    def _to_text(self, q: Array, k: Array, v: Array, key_mask: Array | None, video: P) -> Array:
        """Keys (B, 1, L, h, d), whole on every device of `tokens`."""
        attend = self.inner if isinstance(self.inner, DenseAttention) else dense_attention

        def local(q: Array, k: Array, v: Array, *mask: Array) -> Array:
            # Keys and values get the sum of their gradients over the devices of `tokens` from here; the kernels of
            # attention return gradients of one kind for all three.
            k, v = (jax.lax.pcast(x, self.tokens, to="varying") for x in (k, v))
            return attend(q, k, v, key_mask=mask[0] if mask else None)

        text = P(video[0], None, None, self.heads)
        masks = () if key_mask is None else (key_mask,)
        specs = (video, text, text, *(P(video[0]) for _ in masks))
        return jax.shard_map(local, mesh=self.mesh, in_specs=specs, out_specs=video)(q, k, v, *masks)


@functools.cache
def _choose(kind: str | None, heads: int, parts: int) -> str:
    """heads: those that one device of the heads' axes holds."""
    if kind == "ulysses" and heads % parts:
        raise InputError(
            f"ulysses gives each of the {parts} parts of the tokens its heads, and {heads} do not divide: take fewer "
            "parts, or the ring"
        )
    if kind is not None:
        return kind
    fits = heads % parts == 0
    # On a GPU the ring has no cuDNN attention for its parts.
    logger.log(
        logging.INFO if fits or jax.default_backend() != "gpu" else logging.WARNING,
        "context parallelism: %s; a device's %d heads %s by the %d parts of the tokens",
        "ulysses" if fits else "ring",
        heads,
        "divide" if fits else "do not divide",
        parts,
    )
    return "ulysses" if fits else "ring"
