"""Untrained parameters of the three models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import training
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.zoo import abstract_params, init_params


def test_an_untrained_model_has_the_abstract_one_s_parameters():
    shapes = abstract_params(training.TINY, BFLOAT16)
    params = jax.jit(lambda key: init_params(training.TINY, BFLOAT16, key))(jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    modulation = params["blocks"]["adaLN_modulation"]["kernel"]
    np.testing.assert_array_equal(modulation, jnp.zeros_like(modulation))
    kernel = np.asarray(params["blocks"]["attn"]["qkv"]["kernel"], np.float32)
    # Xavier over all of a fused projection's outputs, and every block its own.
    assert np.abs(kernel).max() == pytest.approx(np.sqrt(6 / (32 + 3 * 32)), rel=0.05)
    assert (kernel[0] != kernel[1]).any()


def test_what_is_no_config_raises():
    with pytest.raises(TypeError, match="int is not a model's config"):
        init_params(3, FLOAT32, jax.random.key(0))
