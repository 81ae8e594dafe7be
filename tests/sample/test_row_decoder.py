"""Many videos decoded where they lie are the videos that sampling decodes."""

import jax.numpy as jnp
import numpy as np

from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.sample.row_decoder import RowDecoder


def test_rows_are_decoded_as_by_sampling(pipe):
    """On one device; several are compared with it in tests/train/sharded_grpo.py."""
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 4, 4, 16)), jnp.float32)
    placement = MeshPlacement(pipe.opened.placement.mesh, TRAINING)
    decoder = RowDecoder(pipe.coder.config, pipe.coder.precision, pipe.params["vae"], placement)
    rows = decoder(latents)
    assert sorted(rows) == [0, 1, 2]
    np.testing.assert_array_equal(np.stack([rows[row] for row in range(3)]), pipe.frames(latents))
