"""The public functions: levels agree, dense where nothing is left out, partial results merge, and what is refused."""

import functools
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bsa_battery import Case, inputs, selection
from lcv_kernels.pallas import (
    XlaConfig,
    attend_blocks,
    block_sparse_attention,
    from_blocks,
    select_blocks,
    to_blocks,
)
from lcv_kernels.pallas.block_sparse_attention import registry
from traces import equations

ROOT = pathlib.Path(__file__).parents[2]
GRIDS = {"grid_q": (2, 2, 4), "grid_k": (4, 2, 4), "block_q": (2, 2, 2), "block_k": (2, 1, 2)}
IMPLEMENTATIONS = ("reference", "xla")


def raster(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    q, g = (jnp.asarray(rng.normal(size=(2, 16, 3, 8)), dtype) for _ in range(2))
    k, v = (jnp.asarray(rng.normal(size=(2, 32, 3, 8)), dtype) for _ in range(2))
    return q, k, v, g


def close(found, expected, atol):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def pulled(attend, q, k, v, g):
    """out and gradients of attend(q, k, v)."""

    @jax.jit
    def run(q, k, v, g):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(g)

    with jax.default_matmul_precision("highest"):
        return run(q, k, v, g)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_left_out_is_dense_attention(implementation):
    attend = functools.partial(block_sparse_attention, **GRIDS, sparsity=0.0, implementation=implementation)
    close(pulled(attend, *raster()), pulled(jax.nn.dot_product_attention, *raster()), atol=1e-5)


def test_the_lower_level_gives_the_same_and_the_choice_carries_no_gradient():
    q, k, v, g = raster()
    tokens = {"block_q": 8, "block_k": 4}
    regrouped = (to_blocks(x, GRIDS[f"grid_{n}"], GRIDS[f"block_{n}"]) for n, x in (("q", q), ("k", k)))
    chosen = select_blocks(*regrouped, **tokens, sparsity=0.4)
    assert chosen.indices.shape == (2, 3, 2, 4)

    def by_hand(q, k, v):
        q = to_blocks(q, GRIDS["grid_q"], GRIDS["block_q"])
        k, v = (to_blocks(x, GRIDS["grid_k"], GRIDS["block_k"]) for x in (k, v))
        return from_blocks(attend_blocks(q, k, v, *chosen, **tokens), GRIDS["grid_q"], GRIDS["block_q"])

    whole = functools.partial(block_sparse_attention, **GRIDS, sparsity=0.4)
    close(pulled(whole, q, k, v, g), pulled(by_hand, q, k, v, g), atol=1e-6)


def test_partial_results_merge_by_their_log_sum_exp():
    """Halves of the keys, each with its share of the selection, some rows with none: outputs and gradients."""
    case = Case("halves", B=2, rows=3, columns=6, select="ragged")
    q, k, v, g, _ = inputs(case, "float32")
    indices, counts = selection(case, q, k)
    sizes = {"block_q": case.block_q, "block_k": case.block_k}
    kept = jnp.arange(6) < counts[..., None]
    seen = (jnp.where(kept, indices, 6)[..., None] == jnp.arange(6)).any(-2)

    def half(q, k, v, part):
        mine, where = seen[..., 3 * part : 3 * part + 3], slice(24 * part, 24 * part + 24)
        chosen = jnp.argsort(~mine, -1, stable=True).astype(jnp.int32), mine.sum(-1, dtype=jnp.int32)
        return attend_blocks(q, k[:, where], v[:, where], *chosen, **sizes, return_lse=True, implementation="xla")

    def merged(q, k, v):
        outs, lses = zip(half(q, k, v, 0), half(q, k, v, 1), strict=True)
        peak = jax.lax.stop_gradient(jnp.maximum(*lses))
        shares = [jnp.exp(lse - jnp.where(peak == -jnp.inf, 0.0, peak)).swapaxes(1, 2)[..., None] for lse in lses]
        mass = shares[0] + shares[1]
        total = sum(out * share for out, share in zip(outs, shares, strict=True))
        return total / jnp.where(mass == 0, 1.0, mass)

    whole = functools.partial(attend_blocks, **sizes, implementation="reference")
    close(pulled(merged, q, k, v, g), pulled(lambda *x: whole(*x, indices, counts), q, k, v, g), atol=1e-5)


def test_softmax_is_float32_and_products_are_bfloat16():
    case = Case("types")
    q, k, v, g, _ = inputs(case, "bfloat16")
    chosen = selection(case, q, k)
    attend = functools.partial(attend_blocks, block_q=8, block_k=8, implementation="xla")
    found = list(equations(jax.make_jaxpr(lambda q: jax.vjp(lambda q: attend(q, k, v, *chosen), q)[1](g))(q).jaxpr))
    assert {str(e.outvars[0].aval.dtype) for e in found if e.primitive.name in ("exp", "reduce_max")} == {"float32"}
    products = [e for e in found if e.primitive.name == "dot_general" and e.outvars[0].aval.ndim == 5]
    assert len(products) == 2 + 5
    assert {str(x.aval.dtype) for e in products for x in e.invars} == {"bfloat16"}
    assert {str(e.outvars[0].aval.dtype) for e in products} == {"float32"}


REFUSED = [
    ({"grid_q": (2, 3, 4)}, r"grid_q \(2, 3, 4\) does not divide .* H 3 is no multiple of 2 \(2 or 4 would be\)"),
    ({"grid_k": (3, 2, 4)}, r"grid_k \(3, 2, 4\) does not divide .* T 3 is no multiple of 2 \(2 or 4 would be\)"),
    ({"grid_k": (2, 2, 4)}, r"\(2, 32, 3, 8\) do not fill grid \(2, 2, 4\): expected \(B, 16, \.\.\.\)"),
    ({"sparsity": None}, "give at least one"),
    ({"implementation": "triton"}, "'triton' is not known: expected None or one of 'mosaic_gpu', 'xla', 'reference'"),
]


@pytest.mark.parametrize(("changes", "match"), REFUSED)
def test_raster_calls_that_are_refused(changes, match):
    q, k, v, _ = raster()
    with pytest.raises(ValueError, match=match):
        block_sparse_attention(q, k, v, **{**GRIDS, "sparsity": 0.5, **changes})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"q": jnp.zeros((1, 15, 2, 4))}, "q has 15 tokens: expected a multiple of its block, 8 tokens"),
        ({"v": jnp.zeros((1, 32, 2, 5))}, r"v \(1, 32, 2, 5\): expected the shape of k, \(1, 32, 2, 4\)"),
        ({"k": jnp.zeros((1, 32, 2, 4), jnp.bfloat16)}, "are float32, bfloat16 and float32: expected float32, "),
        ({x: jnp.zeros((1, 32, 2, 4), jnp.int32) for x in "qkv"}, "are int32, int32 and int32: expected float32, "),
        ({"counts": jnp.zeros((1, 2, 3), jnp.int32)}, r"counts \(1, 2, 3\): expected \(1, 2, 2, 'R'\) and \(1, 2, 2\)"),
        ({"indices": jnp.zeros((1, 2, 2), jnp.int32)}, r"indices \(1, 2, 2\) and"),
        ({"indices": jnp.zeros((1, 2, 2, 2), jnp.int8)}, "are int8 and int32: expected int32"),
        ({"config": "fast", "implementation": "xla"}, "'xla' does not support this call: its config is an XlaConfig"),
        ({"config": XlaConfig(), "implementation": "reference"}, "it takes no config, not XlaConfig"),
        ({"config": "fast"}, "no implementation supports this call: mosaic_gpu: .*; xla: its config is an XlaConfig"),
    ],
)
def test_block_calls_that_are_refused(changes, match):
    call = {
        "q": jnp.zeros((1, 16, 2, 4)),
        "k": jnp.zeros((1, 32, 2, 4)),
        "v": jnp.zeros((1, 32, 2, 4)),
        "indices": jnp.zeros((1, 2, 2, 1), jnp.int32),
        "counts": jnp.zeros((1, 2, 2), jnp.int32),
    }
    with pytest.raises(ValueError, match=match):
        attend_blocks(**(call | changes), block_q=8, block_k=4)


@pytest.mark.parametrize("field", ["chunk_bytes", "slice_keys"])
def test_a_config_is_positive(field):
    with pytest.raises(ValueError, match=f"{field}=0: expected at least 1"):
        XlaConfig(**{field: 0})


CPU = registry.Call("cpu", "cpu", "bfloat16", 128, 64, 64, 256, 2)
HOPPER = registry.Call("gpu", "NVIDIA H200", "bfloat16", 128, 64, 64, 256, 2)


@pytest.fixture
def fresh_registry():
    registry._choose.cache_clear()
    registry._log_once.cache_clear()
    yield
    registry._choose.cache_clear()


def test_the_choice_is_logged_once_with_the_reasons(fresh_registry, caplog):
    with caplog.at_level("INFO"):
        for _ in range(2):
            registry.choose(CPU, None, None)
    assert caplog.messages == ["block sparse attention: xla; not mosaic_gpu: it needs a Hopper GPU, not 'cpu' (cpu)"]


def test_a_gpu_without_the_kernels_is_warned(fresh_registry, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "lcv_kernels.pallas.block_sparse_attention.mosaic_gpu", None)
    registry.choose(HOPPER, None, None)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "xla; not mosaic_gpu: this JAX cannot load its kernels" in record.message


def test_what_has_not_run_on_a_gpu_is_taken_by_name_only(fresh_registry, caplog):
    assert registry.chosen(HOPPER, None, None) == "xla"
    assert "xla; not mosaic_gpu: it has not run on a GPU yet" in caplog.text
    assert registry.chosen(HOPPER, "mosaic_gpu", None) == "mosaic_gpu"


def test_kernels_by_name_say_why_they_do_not_run(fresh_registry):
    with pytest.raises(ValueError, match="'mosaic_gpu' does not support this call: it needs a Hopper GPU, not 'cpu'"):
        registry.choose(CPU, "mosaic_gpu", None)


def test_the_device_is_that_of_the_abstract_mesh():
    device = jax.sharding.AbstractDevice(device_kind="NVIDIA H200", num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device)):
        assert registry.target_device() == ("gpu", "NVIDIA H200")
    assert registry.target_device() == (jax.devices()[0].platform, jax.devices()[0].device_kind)


def test_importing_is_light():
    """No kernel language and nothing of the rest of the project is imported, and no device is touched."""
    program = """
import sys, lcv_kernels.pallas, jax._src.xla_bridge as bridge
print(sorted({"lcv_jax", "flax", "jax.experimental.pallas"} & set(sys.modules)), bridge.backends_are_initialized())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[] False", done.stderr
