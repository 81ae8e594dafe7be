"""The held-out loss: pinned noise, whatever the batches."""

import dataclasses

import jax
import numpy as np
import pytest

import caches
from lcv_jax.data.shards import Dataset
from lcv_jax.errors import InputError
from lcv_jax.eval.held_out import HeldOut, noise_keys
from lcv_jax.flow.noise_levels import level, token_shift
from lcv_jax.sample.encoders import fingerprint
from lcv_jax.sample.pipeline import Pipeline


@pytest.fixture(scope="module")
def pipe(checkpoint_dir):
    return Pipeline.from_pretrained(checkpoint_dir, "float32")


@pytest.fixture(scope="module")
def data(pipe, tmp_path_factory) -> str:
    """Random latents under the names of the checkpoint's models."""
    made = {name: fingerprint(pipe.opened.files[name]) for name in ("vae", "text_encoder")}
    encoding = dataclasses.replace(caches.ENCODING, text_width=64, **made)
    return caches.dataset(tmp_path_factory.mktemp("data"), [(2, 4, 4)] * 3, encoding=encoding)


def asked(batch: int) -> HeldOut:
    return HeldOut(draws=1, bins=10, batch=batch, text_tokens=8, cond_frames=5)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_the_batches(pipe, data):
    """And is the error of v against x0 - noise at the levels of the records' own keys."""
    dataset = Dataset(data)
    whole, single = asked(3).loss(pipe, dataset, "i2v"), asked(1).loss(pipe, dataset, "i2v")
    for name, average in whole.items():
        np.testing.assert_allclose(average.total, single[name].total, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(average.count, single[name].count)
    assert whole["loss"].count == 3
    assert whole["error by level"].count.sum() == 3
    # The levels: uniform, shifted by the 4 noisy tokens.
    keys = noise_keys(0, 0, np.arange(3))
    u = [jax.random.uniform(jax.random.split(key, 5)[1], ()) for key in keys]
    bins = (level(np.array(u), token_shift(4)) * 10).astype(int)
    np.testing.assert_array_equal(whole["error by level"].count, np.bincount(bins, minlength=10))


def test_a_dataset_without_long_records_is_refused(pipe, data):
    with pytest.raises(InputError, match="no record is long enough for vc: expected more than 2 latents"):
        asked(1).loss(pipe, Dataset(data), "vc")
