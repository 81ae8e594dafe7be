"""Eight-bit kernels: error bounds by hand, exact values, what is taken, and the layer that reads them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lcv_jax.errors import InputError
from lcv_jax.models.axes import parameter_axes
from lcv_jax.models.layers import Dense
from lcv_jax.models.precision import BFLOAT16
from lcv_jax.models.quantised import Quantisation
from lcv_jax.models.zoo import ARCHITECTURES, abstract_params
from lcv_jax.parallel.footprint import tree_bytes

INT8, FP8 = Quantisation.named("int8"), Quantisation.named("fp8")
KERNELS = arrays.arrays(
    np.float32, (5, 3), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False), fill=st.just(np.float32(0))
)


def round_trip(quantisation, kernel):
    q, scale = quantisation(jnp.asarray(kernel))
    assert q.dtype == quantisation.dtype
    assert scale.dtype == jnp.float32
    return np.asarray(q, np.float64) * np.asarray(scale, np.float64), np.asarray(scale, np.float64)


@settings(max_examples=60, deadline=None)
@given(KERNELS)
def test_int8_is_off_by_half_a_step_at_most(kernel):
    back, scale = round_trip(INT8, kernel)
    assert (np.abs(back - kernel) <= scale * (0.5 + 1e-4)).all()  # a quotient near .5 is rounded itself
    np.testing.assert_array_equal(back[kernel == 0], 0)


@settings(max_examples=60, deadline=None)
@given(KERNELS)
def test_fp8_is_off_by_a_sixteenth_at_most(kernel):
    """Three bits behind the leading one; below 2^-6 steps of 2^-9."""
    back, scale = round_trip(FP8, kernel)
    assert (np.abs(back - kernel) <= np.maximum(np.abs(kernel) / 16, scale / 1024) * (1 + 1e-4)).all()
    np.testing.assert_array_equal(back[kernel == 0], 0)


@pytest.mark.smoke
@pytest.mark.parametrize("quantisation", [INT8, FP8])
def test_the_largest_of_a_channel_of_either_sign_stays(quantisation):
    kernel = np.array([[3.0, -0.02, 0], [-1.1, 0.011, 0], [1e-3, 1e-5, 0]], np.float32)
    back, scale = round_trip(quantisation, kernel)
    np.testing.assert_allclose(back[0], kernel[0], rtol=1e-6)
    np.testing.assert_allclose(scale[:2] * quantisation.largest, [3, 0.02], rtol=1e-6)
    assert np.isfinite(back).all()


def test_values_on_the_grid_are_exact():
    steps = np.array([[127.0, -127], [5, 64], [-88, 0]], np.float32)
    q, scale = INT8(jnp.asarray(steps * np.float32(0.25)))
    np.testing.assert_array_equal(q, steps.astype(np.int8))
    np.testing.assert_array_equal(scale, [0.25, 0.25])
    steps = np.array([[448.0, 448], [-0.875, 26], [2.0**-9, 0]], np.float32)
    np.testing.assert_array_equal(FP8(jnp.asarray(steps))[0].astype(jnp.float32), steps)


def test_damaged_weights_do_not_become_ordinary_ones():
    scale = INT8(jnp.array([[np.nan, np.inf, 1]], jnp.float32))[1]
    assert not np.isfinite(scale[:2]).any()
    assert np.isfinite(scale[2])


@pytest.mark.parametrize(("quantisation", "bound"), [(INT8, 0.5 / 127), (FP8, 1 / 16)])
@pytest.mark.parametrize("features", [6, (2, 3)])
def test_dense_gives_what_its_kernel_times_scale_gives(quantisation, bound, features):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8)).astype(np.float32)
    layer = Dense(features, jnp.dtype("float32"), jnp.dtype("float32"))
    params = layer.init(jax.random.key(0), x)["params"] | {"bias": rng.normal(size=features).astype(np.float32)}
    q, scale = quantisation(params["kernel"])
    got = layer.apply({"params": params | {"kernel": q, "kernel_scale": scale}}, x)
    dequantised = params | {"kernel": q.astype(jnp.float32) * scale}
    np.testing.assert_allclose(got, layer.apply({"params": dequantised}, x), rtol=1e-5, atol=1e-6)
    # |x . (w - q s)| <= |x|_1 times the largest error of a weight.
    worst = np.abs(x).sum(-1).max() * np.abs(params["kernel"]).max() * bound
    assert 0 < np.abs(got - layer.apply({"params": params}, x)).max() <= worst


def test_adapters_on_a_quantised_layer_stay_as_they_are():
    rng = np.random.default_rng(0)
    x, down, up = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 8), (8, 2), (1, 2, 6)))
    layer = Dense(6, jnp.dtype("float32"), jnp.dtype("float32"))
    params = layer.init(jax.random.key(0), x)["params"]
    q, scale = INT8(params["kernel"])
    quantised = {"params": params | {"kernel": q, "kernel_scale": scale}}
    adapters = {"adapters": {"a": {"down": down, "up": up, "scale": np.float32(0.5)}}}
    added = layer.apply(quantised | {"lora": adapters}, x) - layer.apply(quantised, x)
    np.testing.assert_allclose(added, x @ down @ up[0] * 0.5, rtol=1e-4, atol=1e-5)


def test_the_published_model_takes_half_the_memory():
    """12.3 of the DiT's 13.6 billion parameters are projections of blocks."""
    dit = abstract_params(ARCHITECTURES["longcat-13b"].dit, BFLOAT16)
    assert tree_bytes(dit) == 2 * 13_581_071_424
    D, F, layers = 4096, 11008, 48
    kernels = layers * (D * 3 * D + D * D + (2 * D * D + 2 * D * D) + 3 * D * F)
    scales = layers * (3 * D + D + (D + 2 * D + D) + 2 * F + D)
    for quantisation in (INT8, FP8):
        assert tree_bytes(quantisation.abstract(dit)) == tree_bytes(dit) - kernels + 4 * scales


def test_only_projections_of_blocks_are_taken_and_have_axes():
    found = INT8.abstract(abstract_params(ARCHITECTURES["longcat-13b"].dit))
    blocks = found["blocks"]
    assert blocks["adaLN_modulation"]["kernel"].dtype == jnp.bfloat16
    assert found["final_layer"]["linear"]["kernel"].dtype == jnp.bfloat16
    assert {k: v["kernel"].dtype.name for k, v in blocks["ffn"].items()} == dict.fromkeys(("w1", "w2", "w3"), "int8")
    axes = parameter_axes(ARCHITECTURES["longcat-13b"].dit, found)["blocks"]
    assert axes["attn"]["qkv"]["kernel_scale"] == (None, None, "heads")
    assert axes["ffn"]["w1"]["kernel_scale"] == (None, "mlp")
    assert axes["ffn"]["w2"]["kernel_scale"] == (None, None)
    text = INT8.abstract(abstract_params(ARCHITECTURES["longcat-13b"].text_encoder))
    assert text["shared"]["embedding"].dtype == text["block"]["attention"]["relative_attention_bias"]["embedding"].dtype
    assert {leaf["kernel"].dtype.name for leaf in text["block"]["ffn"].values()} == {"int8"}


def test_other_names_raise():
    assert Quantisation.named(None) is None
    with pytest.raises(InputError, match="weights 'int4' are not known: expected 'int8' or 'fp8'"):
        Quantisation.named("int4")
