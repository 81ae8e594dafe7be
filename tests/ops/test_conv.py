"""The autoencoder's convolutions against their plain definitions, in both forms, forward and backward."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from lcv_jax.ops import conv


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.fixture(autouse=True)
def highest():
    with jax.default_matmul_precision("highest"):
        yield


def plain(x, kernel, past=None):
    """A 3-D convolution of the frames with the two before them, zeros at the start."""
    before = jnp.zeros_like(x[:, :1]).repeat(2, axis=1) if past is None else past
    return lax.conv_general_dilated(
        jnp.concatenate([before, x], axis=1),
        kernel,
        (1, 1, 1),
        ((0, 0), (1, 1), (1, 1)),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


@pytest.mark.parametrize("frames", [1, 2, 4])
@pytest.mark.parametrize("started", ["start", "later"])
def test_causal_convolution_and_its_gradients(frames, started):
    x, kernel = normal(0, 2, frames, 4, 5, 3), normal(1, 3, 3, 3, 3, 2)
    past = normal(2, 2, 2, 4, 5, 3) if started == "later" else None
    weight = normal(3, 2, frames, 4, 5, 2)

    def loss(function, x, kernel, past):
        y = function(x, kernel, past)
        return jnp.sum(y * weight), y

    arguments = (1, 2, 3) if started == "later" else (1, 2)
    grad = jax.jit(jax.grad(loss, argnums=arguments, has_aux=True), static_argnums=0)
    gradients, y = grad(conv.causal_conv3d, x, kernel, past)
    expected_gradients, expected = grad(plain, x, kernel, past)
    np.testing.assert_allclose(y, expected, atol=2e-5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5)


def test_both_forms_agree():
    x, kernel, past = normal(0, 1, 4, 4, 4, 3), normal(1, 3, 3, 3, 3, 2), normal(2, 1, 2, 4, 4, 3)
    np.testing.assert_allclose(conv._start_2d(x, kernel), conv._start_3d(x, kernel), atol=2e-5)
    np.testing.assert_allclose(conv._later_2d(past, x, kernel), conv._later_3d(past, x, kernel), atol=2e-5)


@pytest.mark.parametrize(("platform", "convolutions", "axes"), [("cuda", 1, 5), ("tpu", 1, 5), ("cpu", 3, 4)])
@pytest.mark.parametrize("started", ["start", "later"])
def test_each_platform_is_lowered_to_its_form(platform, convolutions, axes, started):
    x, kernel = jnp.zeros((1, 4, 4, 4, 3)), jnp.zeros((3, 3, 3, 3, 2))
    past = jnp.zeros((1, 2, 4, 4, 3)) if started == "later" else None
    text = jax.jit(conv.causal_conv3d).trace(x, kernel, past).lower(lowering_platforms=(platform,)).as_text()
    found = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(found) == convolutions
    assert all(len(line.split("stride = [")[1].split("]")[0].split(",")) == axes - 2 for line in found)


def test_causal_convolution_sees_no_later_frame():
    x, kernel = normal(0, 1, 4, 3, 3, 2), normal(1, 3, 3, 3, 2, 2)
    y = conv.causal_conv3d(x, kernel)
    changed = conv.causal_conv3d(x.at[:, 2].add(1.0), kernel)
    np.testing.assert_array_equal(changed[:, :2], y[:, :2])
    assert (jnp.abs(changed[:, 2:] - y[:, 2:]).max(axis=(0, 2, 3, 4)) > 0.1).all()


def test_narrow_input_is_summed_wide_and_returned_narrow():
    x, kernel = normal(0, 1, 4, 4, 4, 32), 0.1 * normal(1, 3, 3, 3, 32, 8)
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    y = conv.causal_conv3d(x, kernel)
    assert y.dtype == jnp.bfloat16
    exact = plain(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def upsample_plain(x, kernel):
    return conv.conv2d(x.repeat(2, axis=2).repeat(2, axis=3), kernel)


def test_upsampling_convolution_and_its_gradients():
    x, kernel = normal(0, 2, 2, 3, 4, 3), normal(1, 3, 3, 3, 2)
    weight = normal(2, 2, 2, 6, 8, 2)
    grad = jax.jit(
        jax.grad(lambda f, x, k: (jnp.sum(f(x, k) * weight), f(x, k)), argnums=(1, 2), has_aux=True),
        static_argnums=0,
    )
    expected_gradients, expected = grad(upsample_plain, x, kernel)
    for form in (conv.upsample_conv2d, conv._upsample_as_written):
        gradients, y = grad(form, x, kernel)
        np.testing.assert_allclose(y, expected, atol=2e-5)
        for got, want in zip(gradients, expected_gradients, strict=True):
            np.testing.assert_allclose(got, want, atol=5e-5)


@pytest.mark.parametrize(("platform", "convolutions"), [("cuda", 1), ("tpu", 1), ("cpu", 4)])
def test_each_platform_upsamples_in_its_form(platform, convolutions):
    x, kernel = jnp.zeros((1, 2, 4, 4, 3)), jnp.zeros((3, 3, 3, 2))
    text = jax.jit(conv.upsample_conv2d).trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.convolution") == convolutions


@pytest.mark.parametrize(
    ("axes", "padding"), [((2,), ((0, 0), (1, 1))), ((3,), ((1, 1), (0, 0))), ((2, 3), ((0, 0),) * 2)]
)
def test_what_lies_around_may_come_with_the_picture(axes, padding):
    """Zeros given as pixels do what padding does, in all forms."""
    x, past = normal(0, 1, 3, 4, 5, 3), normal(1, 1, 2, 4, 5, 3)
    kernel, flat = normal(2, 3, 3, 3, 3, 2), normal(3, 3, 3, 3, 2)
    given, before = (jnp.pad(a, [(int(i in axes),) * 2 for i in range(5)]) for a in (x, past))
    for form in (conv._start_2d, conv._start_3d):
        np.testing.assert_allclose(form(given, kernel, padding), plain(x, kernel), atol=2e-5)
    for form in (conv._later_2d, conv._later_3d):
        np.testing.assert_allclose(form(before, given, kernel, padding), plain(x, kernel, past), atol=2e-5)
    for form in (conv._upsample_in_phases, conv._upsample_as_written):
        np.testing.assert_allclose(form(given, flat, padding), upsample_plain(x, flat), atol=2e-5)


def test_narrow_upsampling_is_summed_wide():
    x, kernel = normal(0, 1, 1, 4, 4, 32).astype(jnp.bfloat16), normal(1, 3, 3, 32, 8).astype(jnp.bfloat16)
    y = conv.upsample_conv2d(x, kernel)
    assert y.dtype == jnp.bfloat16
    exact = upsample_plain(x.astype(jnp.float32), kernel.astype(jnp.float32))
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=1.01 * 2**-8, atol=1e-4)  # rounded once


def test_upsampling_does_four_ninths_of_the_arithmetic():
    x, kernel = jnp.zeros((1, 1, 32, 32, 8)), jnp.zeros((3, 3, 8, 8))

    def flops(function):
        text = jax.jit(function).lower(x, kernel).as_text()
        lines = [line for line in text.splitlines() if "stablehlo.convolution" in line]
        shapes = [line.split(" : ")[-1] for line in lines]
        sizes = [[dims.split("xf32")[0].split("x") for dims in s.split("tensor<")[1:]] for s in shapes]
        return sum(np.prod([int(n) for n in kernel[:3] + out]) for _, kernel, out in sizes)

    assert flops(conv.upsample_conv2d) * 9 == flops(upsample_plain) * 4


@pytest.mark.parametrize(("frames", "stride", "steps"), [(6, 1, 4), (7, 2, 3), (6, 2, 2), (2, 1, 0), (1, 2, 0)])
def test_temporal_convolution(frames, stride, steps):
    x, kernel = normal(0, 2, frames, 2, 2, 3), normal(1, 3, 1, 1, 3, 4)
    y = conv.temporal_conv(x, kernel, stride=stride)
    assert y.shape == (2, steps, 2, 2, 4)
    for i in range(steps):
        taps = [x[:, i * stride + k] @ kernel[k, 0, 0] for k in range(3)]
        np.testing.assert_allclose(y[:, i], sum(taps), atol=1e-5)


def test_strided_convolution_pads_as_told():
    x, kernel = normal(0, 1, 2, 4, 4, 3), normal(1, 3, 3, 3, 2)
    y = conv.conv2d(x, kernel, stride=2, padding=((0, 1), (0, 1)))
    padded = jnp.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
    window = functools.partial(jnp.einsum, "bfhwc,hwco->bfo")
    assert y.shape == (1, 2, 2, 2, 2)
    np.testing.assert_allclose(y[:, :, 0, 0], window(padded[:, :, :3, :3], kernel), atol=2e-5)
    np.testing.assert_allclose(y[:, :, 1, 1], window(padded[:, :, 2:, 2:], kernel), atol=2e-5)
