"""Block sparse attention against the official kernels' recorded results, from raster order to raster order."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from lcv_kernels.pallas import block_sparse_attention, select_blocks, to_blocks

pytestmark = pytest.mark.smoke

CASES = json.loads((pathlib.Path(__file__).parents[1] / "goldens" / "bsa_meta.json").read_text())


@pytest.fixture(scope="module")
def arrays(goldens):
    return goldens("bsa")


def settings(case) -> dict:
    return {
        "grid_q": tuple(case["latent_shape_q"]),
        "grid_k": tuple(case["latent_shape_k"]),
        "block_q": tuple(case["chunk_3d_shape_q"]),
        "block_k": tuple(case["chunk_3d_shape_k"]),
        "sparsity": case["sparsity"],
        "cdf": case["cdf_threshold"],
    }


def tokens_first(x):
    return x.swapaxes(1, 2)


@pytest.mark.parametrize("implementation", ["reference", "xla"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients(arrays, name, implementation):
    case = CASES[name]
    q, k, v = (tokens_first(arrays[f"{case['arrays']}_{x}"]) for x in "qkv")
    attend = functools.partial(block_sparse_attention, **settings(case), implementation=implementation)

    @jax.jit
    def run(q, k, v, cotangent):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(cotangent)

    cotangent = tokens_first(arrays[f"{case['arrays']}_cotangent"]) if case["gradients"] else np.ones_like(q)
    with jax.default_matmul_precision("highest"):
        out, gradients = run(q, k, v, cotangent)
    np.testing.assert_allclose(tokens_first(out), arrays[f"{name}_out"], rtol=0, atol=1e-5)
    for x, gradient in zip("qkv" if case["gradients"] else "", gradients, strict=False):
        np.testing.assert_allclose(tokens_first(gradient), arrays[f"{name}_d{x}"], rtol=0, atol=2e-5, err_msg=x)


@pytest.mark.parametrize("name", CASES)
def test_selections(arrays, name):
    case = CASES[name]
    grids = settings(case)
    q, k = (
        to_blocks(tokens_first(arrays[f"{case['arrays']}_{x}"]), grids[f"grid_{x}"], grids[f"block_{x}"]) for x in "qk"
    )
    sizes = {f"block_{x}": int(np.prod(grids[f"block_{x}"])) for x in "qk"}
    select = functools.partial(select_blocks, **sizes, sparsity=case["sparsity"], cdf=case["cdf_threshold"])
    indices, counts = (np.asarray(x) for x in jax.jit(select)(q, k))
    np.testing.assert_array_equal(counts, arrays[f"{name}_block_lens"])
    assert indices.shape == arrays[f"{name}_block_indices"].shape
    for row in np.ndindex(counts.shape):
        kept = indices[row][: counts[row]]
        assert kept.tolist() == sorted(arrays[f"{name}_block_indices"][row][: counts[row]].tolist())
