"""Gradients of the layers that compute in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.models.dit_embed import PatchEmbedder
from lcv_jax.models.layers import Dense, RMSNorm
from lcv_jax.models.precision import Precision

BF16, F32 = jnp.dtype("bfloat16"), jnp.dtype("float32")
MIXED = Precision(param=F32, compute=BF16, output=F32)
TOKENS = 20_000
LAYERS = {
    "Dense": (Dense(8, BF16, F32), (TOKENS, 4), "bias"),
    "RMSNorm": (RMSNorm(F32), (TOKENS, 8), "scale"),
    "PatchEmbedder": (PatchEmbedder(8, MIXED), (1, 1, TOKENS, 1, 1, 4), "bias"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_vectors_add_up_in_float32(name):
    """They are sums over all tokens: in bfloat16, small numbers would vanish beside the sum of those before."""
    layer, shape, leaf = LAYERS[name]
    x = jax.random.normal(jax.random.key(0), shape).astype(BF16)
    params = layer.init(jax.random.key(1), x)
    y = layer.apply(params, x)
    g = (1 + jax.random.normal(jax.random.key(2), y.shape) / 4).astype(BF16)
    if leaf == "scale":
        g = g * jnp.sign(y)
    (gradient,) = jax.jit(lambda p, g: jax.vjp(lambda p: layer.apply(p, x), p)[1](g))(params, g)
    (found,) = [v for path, v in jax.tree.leaves_with_path(gradient) if path[-1].key == leaf]
    terms = np.asarray(g, np.float64) * (np.asarray(y, np.float64) if leaf == "scale" else 1)
    np.testing.assert_allclose(found, terms.reshape(-1, 8).sum(0), rtol=1e-3)
