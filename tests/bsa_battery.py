"""The battery that every implementation of block sparse attention has to pass, and the cases it is made of.

An implementation's test class inherits `Battery`, or `Transformations` which holds it, and says how it attends. Every
result is compared with formulas in float64.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_kernels.pallas import select_blocks

# Of outputs and of gradients; absolute, on values of up to 2 or 3. bfloat16 keeps 8 bits: a value of 2 is off by up to
# 2 ** -8, and so are the probabilities before the products that follow.
TOLERANCES = {"float32": (1e-5, 2e-5), "bfloat16": (1e-2, 2e-2)}


@dataclasses.dataclass(frozen=True)
class Case:
    """Shapes of one call, in blocks: rows and columns are the numbers of query and key blocks.

    select: what chooses the blocks, see `selection`: "top" (sparsity), "cdf", or "ragged": any number per row, none
    among them.
    """

    name: str
    B: int = 1
    heads: int = 2
    d: int = 16
    block_q: int = 8
    block_k: int = 8
    rows: int = 4
    columns: int = 4
    select: str = "top"
    value: float = 0.5

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("square"),
    Case("batch", B=2),
    Case("more keys", rows=2, columns=6),
    Case("more queries", rows=6, columns=3, value=0.6),
    Case("one block", rows=1, columns=1, value=0.0),
    Case("one query block", rows=1, columns=5, value=0.7),
    Case("one key block of many queries", rows=5, columns=1, value=0.0),
    Case("all blocks", rows=3, columns=5, value=0.0),
    Case("nothing", columns=8, value=0.9),
    Case("one of many", columns=12, value=0.9),
    Case("odd", B=2, heads=3, rows=5, columns=7, value=0.55),
    Case("one head", heads=1, rows=3),
    Case("longer key blocks", block_k=32, rows=6, columns=3),
    Case("longer query blocks", block_q=24, rows=2, columns=6),
    Case("blocks of one token", block_q=1, block_k=1, rows=9, columns=11),
    Case("odd blocks", block_q=6, block_k=10, rows=3, columns=5),
    Case("64 channels", d=64, block_q=16, block_k=16),
    Case("128 channels", d=128, block_q=16, block_k=16, rows=2),
    Case("odd channels", d=7),
    Case("cdf", select="cdf", value=0.6, columns=7),
    Case("cdf that keeps all but one", B=2, select="cdf", value=0.999, columns=5),
    Case("cdf that keeps nothing", select="cdf", value=0.0, columns=3),
    Case("ragged", B=2, select="ragged", columns=6),
    Case("ragged, uneven", select="ragged", rows=7, columns=5, block_q=4, block_k=16),
)
"""Small, for any implementation that takes any shape."""

HOPPER_CASES = (
    Case("64 x 64", d=64, block_q=64, block_k=64),
    Case("64 x 64 of a batch", B=2, d=64, block_q=64, block_k=64, rows=3, columns=2),
    Case("64 x 64, 128 channels", d=128, block_q=64, block_k=64, heads=1, rows=3, columns=4, select="ragged"),
    Case("64 x 64, nothing", d=64, block_q=64, block_k=64, rows=2, columns=2, value=0.9),
    Case("64 x 64, cdf", d=64, block_q=64, block_k=64, rows=3, columns=5, select="cdf", value=0.6),
    Case("one block of 64", d=64, block_q=64, block_k=64, heads=1, rows=1, columns=1, value=0.0),
    Case("128 x 64", d=64, block_q=128, block_k=64, heads=1, rows=2, columns=4, select="ragged"),
    Case("64 x 128", d=64, block_q=64, block_k=128, rows=2, columns=3, select="ragged"),
    Case("128 x 256, 128 channels", d=128, block_q=128, block_k=256, heads=1, rows=2, columns=2, select="ragged"),
)
"""Blocks of 64 tokens and more, for kernels that take nothing smaller."""


def inputs(case: Case, dtype, seed: int = 0):
    """q, k, v and the gradients of both outputs: (B, N, heads, d), and (B, heads, N) float32 for the last."""
    rng = np.random.default_rng(seed)
    N, K = case.rows * case.block_q, case.columns * case.block_k
    q, d_out = (jnp.asarray(rng.normal(size=(case.B, N, case.heads, case.d)), dtype) for _ in range(2))
    k, v = (jnp.asarray(rng.normal(size=(case.B, K, case.heads, case.d)), dtype) for _ in range(2))
    return q, k, v, d_out, jnp.asarray(rng.normal(size=(case.B, case.heads, N)), jnp.float32)


def selection(case: Case, q, k, seed: int = 0):
    """(indices, counts) of a case; what stands behind the counts is filled with any block, which must not matter."""
    if case.select != "ragged":
        chosen = {"sparsity" if case.select == "top" else "cdf": case.value}
        settings = {"sparsity": None, "block_q": case.block_q, "block_k": case.block_k, **chosen}
        return jax.jit(functools.partial(select_blocks, **settings))(q, k)
    rng = np.random.default_rng(seed)
    shape = (case.B, case.heads, case.rows)
    counts = rng.integers(0, case.columns + 1, shape)
    counts.flat[0] = 0
    indices = rng.permuted(np.broadcast_to(np.arange(case.columns), (*shape, case.columns)), axis=-1)
    kept = np.arange(case.columns) < counts[..., None]
    indices = np.sort(np.where(kept, indices, indices + case.columns), -1) % case.columns
    return jnp.asarray(indices, jnp.int32), jnp.asarray(counts, jnp.int32)


def with_gradients(attend, q, k, v, indices, counts, d_out, d_lse):
    """out, lse, d_q, d_k, d_v. The lse of a row that sees nothing gets a gradient of nan, which has to be ignored."""
    (out, lse), pull = jax.vjp(lambda *arrays: attend(*arrays, indices, counts), q, k, v)
    d_lse = jnp.where(lse == -jnp.inf, jnp.nan, d_lse)
    return out, lse, *pull((d_out.astype(out.dtype), d_lse))


def oracle(q, k, v, indices, counts, d_out, d_lse, *, block_q: int, block_k: int):
    """What `with_gradients` should give, in float64 by the formulas: a dense softmax under the mask of the blocks."""
    q, k, v, d_out = (np.asarray(x, np.float64).swapaxes(1, 2) for x in (q, k, v, d_out))
    mask = np.zeros((*counts.shape, k.shape[2] // block_k), bool)
    for row in np.ndindex(counts.shape):
        mask[row][np.asarray(indices)[row][: counts[row]]] = True
    mask = mask.repeat(block_q, -2).repeat(block_k, -1)
    scale = q.shape[-1] ** -0.5
    weights = np.where(mask, np.exp(q @ k.swapaxes(2, 3) * scale), 0.0)
    mass = weights.sum(-1, keepdims=True)
    weights /= np.where(mass == 0, 1.0, mass)
    out = weights @ v
    pull = d_out @ v.swapaxes(2, 3) - (d_out * out).sum(-1, keepdims=True) + np.asarray(d_lse, np.float64)[..., None]
    d_logits = weights * pull * scale
    gradients = (d_logits @ k, d_logits.swapaxes(2, 3) @ q, weights.swapaxes(2, 3) @ d_out)
    with np.errstate(divide="ignore"):
        lse = np.log(mass[..., 0])
    return out.swapaxes(1, 2), lse, *(x.swapaxes(1, 2) for x in gradients)


def assert_near_oracle(found, expected, tolerances: tuple[float, float]):
    """Compares out, lse, d_q, d_k, d_v; tolerances are those of outputs and of gradients, absolute."""
    for name, one, other in zip(("out", "lse", "d_q", "d_k", "d_v"), found, expected, strict=True):
        atol = tolerances[name.startswith("d_")]
        np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=0, atol=atol, err_msg=name)


class Battery:
    """Inherited by the test class of every implementation.

    cases, dtypes: what it is tried on.
    """

    cases: ClassVar[tuple[Case, ...]] = CASES
    dtypes: ClassVar[tuple[str, ...]] = ("float32", "bfloat16")
    tolerances: ClassVar[dict[str, tuple[float, float]]] = TOLERANCES

    def attend(self, q, k, v, indices, counts, *, block_q: int, block_k: int):
        """out and lse, differentiable; may be called inside jit."""
        raise NotImplementedError

    def sized(self, case: Case):
        return functools.partial(self.attend, block_q=case.block_q, block_k=case.block_k)

    def pytest_generate_tests(self, metafunc):
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=str)
        if "dtype" in metafunc.fixturenames:
            metafunc.parametrize("dtype", self.dtypes)

    @pytest.fixture(autouse=True)
    def _exact_products(self):
        with jax.default_matmul_precision("highest"):
            yield

    def test_outputs_and_gradients_equal_the_oracle(self, case, dtype):
        q, k, v, d_out, d_lse = inputs(case, dtype)
        chosen = selection(case, q, k)
        found = jax.jit(functools.partial(with_gradients, self.sized(case)))(q, k, v, *chosen, d_out, d_lse)
        assert [x.dtype for x in found] == [q.dtype, jnp.float32, q.dtype, q.dtype, q.dtype]
        expected = oracle(q, k, v, *chosen, d_out, d_lse, block_q=case.block_q, block_k=case.block_k)
        assert_near_oracle(found, expected, self.tolerances[dtype])


class Transformations(Battery):
    """The battery, and that the implementation stands being transformed.

    small: the case that these tests take; it has rows that see nothing, and counts below the length of a row.
    """

    small: ClassVar[Case] = Case("small", B=2, rows=3, columns=4, select="ragged")
    small_dtype: ClassVar[str] = "float32"

    def arrays(self, seed: int = 0):
        """q, k, v, indices, counts, d_out, d_lse."""
        q, k, v, d_out, d_lse = inputs(self.small, self.small_dtype, seed)
        return q, k, v, *selection(self.small, q, k, seed), d_out, d_lse

    def loss(self, q, k, v, indices, counts, d_out, d_lse):
        """The scalar whose gradients the oracle gives."""
        out, lse = self.sized(self.small)(q, k, v, indices, counts)
        return (out * d_out).astype(jnp.float32).sum() + jnp.where(lse == -jnp.inf, 0.0, lse * d_lse).sum()

    def assert_gradients(self, found, *arrays):
        """found: d_q, d_k, d_v of `loss` at `arrays`."""
        expected = oracle(*arrays, block_q=self.small.block_q, block_k=self.small.block_k)[2:]
        for name, one, other in zip(("d_q", "d_k", "d_v"), found, expected, strict=True):
            atol = self.tolerances[self.small_dtype][1]
            np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=0, atol=atol, err_msg=name)

    def test_what_stands_behind_the_count_is_ignored(self):
        q, k, v, indices, counts, d_out, d_lse = self.arrays()
        behind = jnp.arange(indices.shape[-1]) >= counts[..., None]
        assert behind.any()
        run = jax.jit(functools.partial(with_gradients, self.sized(self.small)))
        first, last = (
            run(q, k, v, jnp.where(behind, block, indices), counts, d_out, d_lse)
            for block in (0, self.small.columns - 1)
        )
        for one, other in zip(first, last, strict=True):
            np.testing.assert_array_equal(np.float32(one), np.float32(other))

    def test_is_safe_under_vmap(self):
        """Over everything, and over the queries alone, so that some operands have the axis and others do not."""
        first, second = self.arrays(0), self.arrays(1)
        grad = jax.grad(self.loss, (0, 1, 2))
        found = jax.jit(jax.vmap(grad))(*(jnp.stack(pair) for pair in zip(first, second, strict=True)))
        for i, arrays in enumerate((first, second)):
            self.assert_gradients([g[i] for g in found], *arrays)
        found = jax.jit(jax.vmap(grad, (0, *[None] * 6)))(jnp.stack([first[0], second[0]]), *first[1:])
        for i, q in enumerate((first[0], second[0])):
            self.assert_gradients([g[i] for g in found], q, *first[1:])

    def test_is_safe_under_remat_inside_scan(self):
        """Gradients of two layers in a rematerialised scan equal those of two calls."""
        q, k, v, indices, counts, d_out, _ = self.arrays()

        def layer(x, k, v):
            return self.sized(self.small)(x, k, v, indices, counts)[0]

        def scanned(q, k, v):
            layers = jax.lax.scan(lambda x, _: (jax.checkpoint(layer)(x, k, v), ()), q, length=2)[0]
            return (layers * d_out).astype(jnp.float32).sum()

        def called(q, k, v):
            return (layer(layer(q, k, v), k, v) * d_out).astype(jnp.float32).sum()

        found, expected = (jax.jit(jax.grad(loss, (0, 1, 2)))(q, k, v) for loss in (scanned, called))
        for one, other in zip(found, expected, strict=True):
            atol = self.tolerances[self.small_dtype][1]
            np.testing.assert_allclose(np.float32(one), np.float32(other), rtol=0, atol=atol)

    @pytest.mark.smoke  # JAX's types of what varies over a mesh are young
    def test_is_safe_under_shard_map(self):
        """Queries cut over the mesh, keys on every device: their gradients are summed over it."""
        P, auto = jax.sharding.PartitionSpec, jax.sharding.AxisType.Auto
        mesh = jax.make_mesh((len(jax.devices()[:2]),), ("data",), axis_types=(auto,), devices=jax.devices()[:2])
        arrays = self.arrays()
        q, k, v, *others = arrays
        size = q.shape[1] // self.small.rows

        def local(q, k, v, *others):
            return jax.lax.psum(self.loss(q, k, v, *others), "data")

        tokens, heads = P(None, "data"), P(None, None, "data")
        specs = (tokens, P(), P(), heads, heads, tokens, heads)
        cut = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())
        rows = 2  # of three, so that two devices divide them
        q, d_out = (x[:, : rows * size] for x in (q, others[2]))
        others = (others[0][:, :, :rows], others[1][:, :, :rows], d_out, others[3][..., : rows * size])
        self.assert_gradients(jax.jit(jax.grad(cut, (0, 1, 2)))(q, k, v, *others), q, k, v, *others)
