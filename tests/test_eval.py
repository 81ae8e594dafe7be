"""The measuring command: pinned noise, numbers of every task, and what it refuses."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import caches
from lcv_jax import eval as evaluation
from lcv_jax.data.shards import Dataset
from lcv_jax.errors import InputError
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


def asked(checkpoint_dir, tmp_path, **given) -> evaluation.Eval:
    return evaluation.Eval(str(checkpoint_dir), str(tmp_path / "eval.json"), max_text_tokens=8, **given)


@pytest.mark.slow
def test_the_loss_does_not_depend_on_the_batches(pipe, data, checkpoint_dir, tmp_path):
    """And is the error of v against x0 - noise at the levels of the records' own keys."""
    one = asked(checkpoint_dir, tmp_path, data=data, batch=3)
    dataset = Dataset(data)
    whole, single = one._loss(pipe, dataset, "i2v"), dataclasses.replace(one, batch=1)._loss(pipe, dataset, "i2v")
    for name, average in whole.items():
        np.testing.assert_allclose(average.total, single[name].total, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(average.count, single[name].count)
    assert whole["loss"].count == 3
    assert whole["error by level"].count.sum() == 3
    # The levels: uniform, shifted by the 4 noisy tokens.
    keys = evaluation._keys(0, 0, np.arange(3))
    u = [jax.random.uniform(jax.random.split(key, 5)[1], ()) for key in keys]
    bins = (level(np.array(u), token_shift(4)) * 10).astype(int)
    np.testing.assert_array_equal(whole["error by level"].count, np.bincount(bins, minlength=10))


@pytest.mark.slow
def test_the_command_measures_every_task(data, checkpoint_dir, tmp_path, capsys):
    args = ["--checkpoint", checkpoint_dir, "--out", tmp_path / "eval.json", "--max-text-tokens", 8, "--data", data]
    args += ["--toy", 2, "--languages", "en", "--size", "32x32", "--frames", 9, "--steps", 1, "--batch", 2]
    args += ["--tasks", "t2v", "i2v", "vc", "--clips", tmp_path / "clips"]
    assert evaluation.main([*map(str, args)]) == 2
    assert "no record is long enough for vc: expected more than 2 latents" in capsys.readouterr().err
    assert not (tmp_path / "eval.json").exists()
    data_at = args.index("--data")
    assert evaluation.main([*map(str, args[:data_at] + args[data_at + 2 :])]) == 0
    found = json.loads((tmp_path / "eval.json").read_text())
    assert set(found["judge"]) == {"t2v en", "i2v en", "vc en"}
    for scores in found["judge"].values():
        assert set(scores) == {"colour", "shape", "motion", "count", "kept", "all", "clips"}
        assert scores["clips"] == 2
        assert all(0 <= scores[name] <= 1 for name in scores if name != "clips")
    assert len(list((tmp_path / "clips").iterdir())) == 6


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "nothing to measure: give --data DATASET, --toy COUNT, or both"),
        ({"toy": 1, "batch": 0}, "--batch 0: expected at least 1"),
        ({"data": "/nowhere"}, "/nowhere/index.json: no such file"),
    ],
)
def test_bad_input_is_refused(checkpoint_dir, tmp_path, given, match):
    with pytest.raises(InputError, match=match):
        asked(checkpoint_dir, tmp_path, **given).run()


def test_data_of_other_encoders_are_refused(checkpoint_dir, tmp_path):
    other = caches.dataset(tmp_path / "data", [(2, 4, 4)])
    with pytest.raises(InputError, match=r"was encoded with another vae \(a\) than"):
        asked(checkpoint_dir, tmp_path, data=other).run()
