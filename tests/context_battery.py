"""Attention on eight virtual devices against one, run as a program of its own: prints {check: fault or ""} as JSON.

`CHECKS` is what it runs, by name.
"""

import dataclasses
import json
import math
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.ops.attention import DenseAttention, dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.context import ContextAttention

AXES = ("data", "fsdp", "context", "tensor")
GARBAGE = 50.0  # what stands in padding: attended to, it would be all that is attended to

BLOCK = {"block_q": (2, 2, 2), "block_k": (2, 2, 2)}
TOP = BlockSparseAttention(**BLOCK, sparsity=0.7)
CDF = BlockSparseAttention(**BLOCK, sparsity=None, cdf=0.6)
NONE = BlockSparseAttention(**BLOCK, sparsity=1.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """A call of attention on a mesh.

    mesh: the sizes of AXES. grid: (T, H, W) of the queries; cached: frames that the keys have in front. tolerance: of
    outputs and gradients, to their largest entry.
    """

    mesh: tuple[int, int, int, int]
    grid: tuple[int, int, int]
    kind: str | None = None
    tokens: tuple[str, ...] = ("context",)
    inner: DenseAttention | BlockSparseAttention = dense_attention
    cached: int = 0
    batch: int = 2
    heads: int = 8
    dtype: str = "float32"
    tolerance: float = 2e-5

    @property
    def attention(self) -> ContextAttention:
        return ContextAttention(mesh_of(self.mesh), self.inner, self.kind, tokens=self.tokens)

    @property
    def grid_k(self) -> tuple[int, int, int]:
        return (self.grid[0] + self.cached, *self.grid[1:])


def mesh_of(sizes: tuple[int, int, int, int]) -> jax.sharding.Mesh:
    auto = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.make_mesh(sizes, AXES, axis_types=auto, devices=jax.devices()[: math.prod(sizes)])


def video(case: Case, grid, seed: int):
    """Random (B, A, S, h, d) without padding, and what pads it for the mesh."""
    block = case.attention.token_block if grid[0] > 1 else None
    slab_frames = block[0] if block else 1
    tokens = slab_frames * grid[1] * grid[2]
    unit = (math.prod(block) if block else 1) * case.attention.parts
    x = jax.random.normal(jax.random.key(seed), (case.batch, grid[0] // slab_frames, tokens, case.heads, 8))
    padding = ((0, 0), (0, 0), (0, -tokens % unit), (0, 0), (0, 0))
    return x.astype(case.dtype), lambda x, fill=GARBAGE: jnp.pad(x, padding, constant_values=fill)


def compare(one, other, tolerance: float, name: str):
    one, other = (np.asarray(x, np.float32) for x in (one, other))
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max(), err_msg=name)


def equals_one_device(case: Case):
    """Outputs and gradients are those of `inner` on one device; padding gets none, whatever stands in it."""
    q, pad_q = video(case, case.grid, 0)
    (k, pad_k), (v, _) = (video(case, case.grid_k, seed) for seed in (1, 2))
    g, _ = video(case, case.grid, 3)
    grids = {"grid_q": case.grid, "grid_k": case.grid_k}

    @jax.jit
    def on_mesh(q, k, v, g):
        out, pull = jax.vjp(lambda *qkv: case.attention(*qkv, **grids), pad_q(q), pad_k(k), pad_k(v))
        return out, *pull(pad_q(g, 0))

    @jax.jit
    def on_one(q, k, v, g):
        out, pull = jax.vjp(lambda *qkv: case.inner(*qkv, **grids), q, k, v)
        return out, *pull(g)

    for name, x, y in zip(("out", "dq", "dk", "dv"), on_mesh(q, k, v, g), on_one(q, k, v, g), strict=True):
        assert x.dtype == y.dtype, (name, x.dtype)
        assert np.isfinite(np.asarray(x, np.float32)).all(), name
        real = y.shape[2]
        compare(x[:, :, :real], y, case.tolerance, name)
        if name != "out":
            np.testing.assert_array_equal(np.asarray(x[:, :, real:], np.float32), 0, err_msg=name)


def text_keys():
    """Keys that are no video: whole everywhere, masked or not; their gradients come from all devices."""
    case = Case((1, 2, 2, 2), (2, 3, 4), tokens=("fsdp", "context"))
    q, _ = video(case, case.grid, 0)
    g, _ = video(case, case.grid, 3)
    k, v = jax.random.normal(jax.random.key(1), (2, case.batch, 1, 7, case.heads, 8))
    for mask in (None, jnp.arange(7) < jnp.array([[4], [7]])):
        results = []
        for attend in (case.attention, case.inner):
            out, pull = jax.vjp(jax.jit(lambda *qkv, attend=attend, mask=mask: attend(*qkv, key_mask=mask)), q, k, v)
            results.append((out, *pull(g)))
        for name, x, y in zip(("out", "dq", "dk", "dv"), *results, strict=True):
            compare(x, y, 2e-5, name)


def inside_scan_and_remat():
    """Layers are scanned and rematerialised around it, and arrays that are cut stay so."""
    case = Case((2, 1, 4, 1), (2, 3, 4), kind=None)
    x, _ = video(case, case.grid, 0)
    grids = {"grid_q": case.grid, "grid_k": case.grid}

    def loss(x, attend):
        layer = jax.checkpoint(lambda x, _: (x + attend(x, x / 2, x, **grids) / 2, None))
        return jnp.square(jax.lax.scan(layer, x, length=3)[0]).sum()

    cut = NamedSharding(case.attention.mesh, P("data", None, "context", "tensor"))
    found = jax.jit(jax.grad(lambda x: loss(x, case.attention)))(jax.device_put(x, cut))
    compare(found, jax.jit(jax.grad(lambda x: loss(x, case.inner)))(x), 2e-5, "gradient")
    assert found.sharding.is_equivalent_to(cut, found.ndim), found.sharding


CASES = {
    "ulysses, context 8": Case((1, 1, 8, 1), (3, 2, 8), "ulysses"),
    "ulysses, tokens over two axes, uneven, cached": Case(
        (1, 2, 2, 2), (2, 3, 5), "ulysses", ("fsdp", "context"), cached=2
    ),
    "ulysses, a batch that does not divide": Case((2, 1, 4, 1), (2, 3, 5), "ulysses", batch=1),
    "ulysses, bfloat16": Case((2, 1, 4, 1), (2, 3, 5), "ulysses", dtype="bfloat16", tolerance=2e-2),
    "ring, context 8": Case((1, 1, 8, 1), (3, 2, 8), "ring"),
    "ring, tokens over two axes, uneven, cached": Case((1, 2, 2, 2), (2, 3, 5), "ring", ("fsdp", "context"), cached=2),
    "ring, shards of padding only": Case((2, 1, 4, 1), (2, 1, 5), "ring", heads=3),
    "ring, bfloat16": Case((2, 1, 4, 1), (2, 3, 5), "ring", dtype="bfloat16", tolerance=2e-2),
    "sparse ulysses": Case((1, 2, 2, 2), (4, 6, 6), "ulysses", ("fsdp", "context"), TOP, cached=2),
    "sparse ring": Case((1, 2, 2, 2), (4, 6, 6), "ring", ("fsdp", "context"), TOP, cached=2),
    "sparse ring, cdf": Case((2, 1, 4, 1), (4, 4, 8), "ring", inner=CDF, heads=3),
    "sparse ring, nothing kept": Case((2, 1, 4, 1), (2, 4, 4), "ring", inner=NONE),
}
CHECKS = {name: lambda case=case: equals_one_device(case) for name, case in CASES.items()} | {
    "text keys": text_keys,
    "inside scan and remat": inside_scan_and_remat,
}


def main(checks):
    # Compiling is most of the work, and less of it changes no result beyond rounding.
    jax.config.update("jax_disable_most_optimizations", True)
    faults = {}
    for name, check in checks.items():
        try:
            check()
            faults[name] = ""
        except Exception:
            faults[name] = traceback.format_exc(limit=-4)
    print(json.dumps(faults))


if __name__ == "__main__":
    main(CHECKS)
