"""Loading into eight bits: what the arithmetic on whole leaves gives, row by row, on one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.checkpoint import layout
from lcv_jax.checkpoint.load import load_params
from lcv_jax.models.quantised import Quantisation


@pytest.mark.parametrize(("model", "name"), [("dit", "fp8"), ("text_encoder", "int8")])
def test_rows_are_quantised_as_whole_leaves_are(checkpoint_dir, model, name):
    quantisation = Quantisation.named(name)
    m = layout.open_models(checkpoint_dir)[model]
    plain = load_params(m.source, m.component.table, m.abstract, dtype="float32")
    loaded = load_params(m.source, m.component.table, m.abstract, dtype="float32", quantisation=quantisation)
    expected = quantisation.abstract(m.abstract)
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    block = {"dit": ("blocks", "attn", "qkv"), "text_encoder": ("block", "ffn", "wo")}[model]
    for key in block:
        plain, loaded = plain[key], loaded[key]
    q, scale = jax.vmap(quantisation)(plain["kernel"])
    assert loaded["kernel"].dtype == quantisation.dtype
    np.testing.assert_array_equal(loaded["kernel"].astype(jnp.float32), q.astype(jnp.float32))
    np.testing.assert_allclose(loaded["kernel_scale"], scale, rtol=1e-6)
