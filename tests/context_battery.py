"""Attention on eight virtual devices against one, run as a program of its own: prints {check: fault or ""} as JSON.

`context_battery.py slow` runs the longer ones. The names of the checks are `QUICK` and `SLOW`.
"""

import contextlib
import dataclasses
import functools
import json
import math
import pathlib
import re
import sys
import tempfile
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import context_parallel
from lcv_jax.ops.attention import DenseAttention, dense_attention, joined
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.context import ContextAttention
from lcv_jax.parallel.ring_sparse import BlockShares, selected_places
from lcv_kernels.pallas import select_blocks

AXES = ("data", "fsdp", "context", "tensor")
GARBAGE = 50.0  # what stands in padding: attended to, it would be all that is attended to

BLOCK = {"block_q": (2, 2, 2), "block_k": (2, 2, 2)}
TOP = BlockSparseAttention(**BLOCK, sparsity=0.7)
CDF = BlockSparseAttention(**BLOCK, sparsity=None, cdf=0.6)
BOTH = BlockSparseAttention(**BLOCK, sparsity=0.8, cdf=0.3)
OTHER = BlockSparseAttention((2, 2, 2), (2, 3, 2), sparsity=0.7)
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
    channels: int = 8
    dtype: str = "float32"
    batch_axes: tuple[str, ...] = ("data",)
    tolerance: float = 2e-5

    @property
    def attention(self) -> ContextAttention:
        return ContextAttention(mesh_of(self.mesh), self.inner, self.kind, self.batch_axes, self.tokens)

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
    x = jax.random.normal(jax.random.key(seed), (case.batch, grid[0] // slab_frames, tokens, case.heads, case.channels))
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


def selects_as_one_device(inner: BlockSparseAttention):
    """Every device's query blocks select the key blocks that one device selects for them."""
    case = Case((1, 2, 2, 2), (4, 6, 6), tokens=("fsdp", "context"), inner=inner, cached=2)
    (q, pad_q), (k, pad_k) = video(case, case.grid, 0), video(case, case.grid_k, 1)
    size = math.prod(inner.block_q)
    real = q.shape[2] // size

    rule = {"sparsity": inner.sparsity, "cdf": inner.cdf}
    select = jax.jit(functools.partial(select_blocks, block_q=size, block_k=size, **rule))
    indices, counts = map(np.asarray, select(joined(q), joined(k)))

    def shares(x):
        return BlockShares(x.shape[1], x.shape[2] // size, real)

    cut = P(None, None, case.tokens, "tensor")
    on_mesh = jax.shard_map(
        lambda q, k: selected_places(q, k, case.tokens, inner, shares(q), shares(k)),
        mesh=case.attention.mesh,
        in_specs=(cut, cut),
        out_specs=P(None, "tensor", case.tokens),
    )
    places = jax.jit(on_mesh)(pad_q(q), pad_k(k))
    B, h, rows, _ = places.shape
    slabs_q, slabs_k, parts = q.shape[1], k.shape[1], case.attention.parts
    share_q, share_k = rows // slabs_q // parts, -(-real // parts)
    by_device = np.asarray(places).reshape(B, h, parts, slabs_q, share_q, -1)
    for b, head, slab, block in np.ndindex(B, h, slabs_q, share_q * parts):
        found = by_device[b, head, block // share_q, slab, block % share_q]
        device, rest = np.divmod(found[found < parts * slabs_k * share_k], slabs_k * share_k)
        found = sorted(rest // share_k * real + device * share_k + rest % share_k)
        if block >= real:
            assert found == [], found
            continue
        row = b, head, slab * real + block
        assert found == indices[row][: counts[row]].tolist(), (b, head, slab, block)


def compiled(case: Case) -> str:
    """The program of forward and backward of arrays that are cut as the attention wants them."""
    q, pad_q = video(case, case.grid, 0)
    cut = NamedSharding(case.attention.mesh, P(("data",), None, case.tokens, ("tensor",)))
    shape = jax.ShapeDtypeStruct(pad_q(q).shape, q.dtype, sharding=cut)

    def run(q, k, v, g):
        out, pull = jax.vjp(lambda *qkv: case.attention(*qkv, grid_q=case.grid, grid_k=case.grid), q, k, v)
        return out, *pull(g)

    return jax.jit(run, out_shardings=(cut,) * 4).lower(*[shape] * 4).compile().as_text()


def moved(program: str) -> dict[str, int]:
    """Collectives of a program -> the entries of the largest array that one of them gives."""
    found = {}
    for line in program.splitlines():
        if match := re.search(r"= (.*?) (all-gather|all-to-all|all-reduce|collective-permute|reduce-scatter)", line):
            found[match[2]] = max(found.get(match[2], 0), *_entries(match[1]))
    return found


def _entries(text: str) -> list[int]:
    """Of all array shapes in a piece of HLO."""
    shapes = re.findall(r"\b(?:f32|bf16|s32|u32|pred|s8)\[([\d,]*)\]", text)
    return [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]


def ulysses_is_all_to_all():
    assert list(moved(compiled(Case((1, 1, 8, 1), (2, 2, 8), "ulysses")))) == ["all-to-all"]


def ring_never_holds_all_keys():
    """Keys and values go on in shards, and nothing is made that is as large as half of the keys of all devices."""
    case = Case((1, 1, 8, 1), (2, 2, 8), "ring", channels=64)
    program = compiled(case)
    share = case.batch * 2 * 2 * case.heads * case.channels
    assert moved(program) == {"collective-permute": share}
    assert max(_entries(program)) < 4 * share, max(_entries(program))


def sparse_ring_gathers_averages_only():
    case = Case((1, 1, 8, 1), (4, 8, 8), "ring", inner=TOP)
    averages = case.batch * case.heads * math.prod(case.grid) // 8 * case.channels
    assert moved(compiled(case)) == {"all-gather": averages, "collective-permute": averages}


def nothing_superfluous_is_sent():
    """Ulysses sends what it has to; a ring too, but for gradients, which it sends n + 1 times instead of n - 1."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        path = pathlib.Path(folder)
        context_parallel.main(["--grid", "2", "4", "8", "--parts", "4", "--heads", "4"], path)
        rows = json.loads((path / "context_parallel.json").read_text())["rows"]
    assert [row["ratio"] for row in rows] == [1.0, (3 + 3 + 5) / 9], rows


@given(
    mesh=st.sampled_from([(1, 1, 8, 1), (2, 1, 4, 1), (1, 2, 2, 2), (2, 1, 3, 1), (1, 1, 7, 1), (1, 1, 1, 4)]),
    axes=st.sampled_from([("context",), ("fsdp", "context")]),
    kind=st.sampled_from([None, "ring"]),
    inner=st.sampled_from([dense_attention, TOP, CDF, BOTH]),
    blocks=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)),
    cached=st.sampled_from([0, 2]),
    batch=st.integers(1, 2),
    heads=st.sampled_from([4, 8]),
)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
def any_small_case(mesh, axes, kind, inner, blocks, cached, batch, heads):
    grid = tuple(2 * n for n in blocks)
    equals_one_device(Case(mesh, grid, kind, axes, inner, cached, batch, heads))


CASES = {
    "ulysses": Case((1, 1, 8, 1), (3, 2, 8), "ulysses"),
    "ulysses, tokens over two axes, uneven, cached": Case(
        (1, 2, 2, 2), (2, 3, 5), "ulysses", ("fsdp", "context"), cached=2
    ),
    "ulysses, a batch that does not divide, bfloat16": Case(
        (2, 1, 4, 1), (2, 3, 5), "ulysses", batch=1, dtype="bfloat16", tolerance=2e-2
    ),
    "ring": Case((1, 1, 8, 1), (3, 2, 8), "ring"),
    "ring, tokens over two axes, uneven, cached": Case((1, 2, 2, 2), (2, 3, 5), "ring", ("fsdp", "context"), cached=2),
    "ring, shards of padding only": Case((2, 1, 4, 1), (2, 1, 5), None, heads=3),
    "ring, a batch that divides by one of its axes, bfloat16": Case(
        (2, 2, 2, 1), (2, 3, 5), "ring", batch_axes=("data", "fsdp"), dtype="bfloat16", tolerance=2e-2
    ),
    "sparse ulysses": Case((1, 2, 2, 2), (4, 6, 6), "ulysses", ("fsdp", "context"), TOP, cached=2),
    "sparse ring": Case((1, 2, 2, 2), (4, 6, 6), "ring", ("fsdp", "context"), TOP, cached=2),
    "sparse ring, cdf, shards of padding only": Case((2, 1, 4, 1), (4, 2, 10), None, inner=CDF, heads=3),
    "sparse ring, nothing kept": Case((2, 1, 4, 1), (2, 4, 4), "ring", inner=NONE),
    "sparse ring, an image": Case((2, 1, 4, 1), (1, 3, 5), "ring", inner=TOP),
}
SLOW_CASES = {
    "sparse ring, bfloat16": Case((2, 1, 4, 1), (4, 4, 8), "ring", inner=TOP, dtype="bfloat16", tolerance=3e-2),
    "sparse ulysses, blocks that differ": Case((1, 1, 8, 1), (4, 6, 8), "ulysses", inner=OTHER),
    "ring of one device": Case((2, 2, 1, 2), (2, 3, 5), "ring"),
    "480p, a single frame, on 7 devices": Case((1, 1, 7, 1), (1, 30, 52), None, heads=3, batch=1),
}
QUICK = {name: functools.partial(equals_one_device, case) for name, case in CASES.items()} | {
    "text keys": text_keys,
    "inside scan and remat": inside_scan_and_remat,
    "top selection": functools.partial(selects_as_one_device, TOP),
    "cdf selection": functools.partial(selects_as_one_device, CDF),
    "program of ulysses": ulysses_is_all_to_all,
    "program of the ring": ring_never_holds_all_keys,
    "program of the sparse ring": sparse_ring_gathers_averages_only,
}
SLOW = {name: functools.partial(equals_one_device, case) for name, case in SLOW_CASES.items()} | {
    "nothing superfluous is sent": nothing_superfluous_is_sent,
    "any small case": any_small_case,
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
    main(SLOW if "slow" in sys.argv[1:] else QUICK)
