"""The toy world through everything: encoded while training, sampled from on the way, exported, measured."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import caches
import training
from lcv_jax.checkpoint import __main__ as checkpoints
from lcv_jax.data.cache import Cache
from lcv_jax.data.loader import Settings
from lcv_jax.data.shards import Dataset
from lcv_jax.data.video import read_metadata, read_video
from lcv_jax.errors import InputError
from lcv_jax.eval import __main__ as evaluation
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.sample.encoders import Encoders
from lcv_jax.train import command
from lcv_jax.train.build import DiTTraining
from lcv_jax.train.config import DataConfig, SampleConfig, TrainConfig
from lcv_jax.train.live import LiveToy
from lcv_jax.train.loop import End
from lcv_jax.train.optimizer import AdamW

LIVE = "toy:20 32x32x5"


@pytest.fixture
def config(checkpoint_dir) -> TrainConfig:
    return TrainConfig(
        model=dataclasses.replace(training.TINY, caption_channels=64),
        data=DataConfig(paths=(LIVE,), batches=Settings(tokens=16, text_tokens=32, posterior="sample")),
        optimizer=AdamW(rate=1e-3, warmup=0),
        steps=2,
        log_every=1,
        checkpoint=str(checkpoint_dir),
        dtype="float32",
        mesh="data=1",
        samples=SampleConfig(every=2, prompts=("A red circle.", "一颗星"), height=32, width=32, frames=5, steps=1),
    )


@pytest.mark.slow
def test_the_toy_world_through_everything(config, tmp_path):
    run, exported = tmp_path / "run", tmp_path / "exported"
    assert command.train(config, str(run), profile=False) == (2, End.FINISHED)
    clips = [run / f"samples/0000002/{number:02d}.mp4" for number in range(2)]
    assert [read_video(clip).frames.shape for clip in clips] == [(5, 32, 32, 3)] * 2
    assert read_metadata(clips[1])["prompt"] == "一颗星"
    assert checkpoints.main(["export", str(run / "checkpoints/2"), str(exported)]) == 0
    args = ["--toy", "1", "--languages", "zh", "--size", "32x32", "--frames", "5", "--steps", "1"]
    args += ["--max-text-tokens", "32", "--out", str(tmp_path / "eval.json"), "--checkpoint", str(exported)]
    args += ["--compile-cache", ""]
    assert evaluation.main(args) == 0
    assert json.loads((tmp_path / "eval.json").read_text())["judge"]["t2v zh"]["clips"] == 1


@pytest.mark.slow
def test_a_profile_is_written(config, tmp_path):
    quiet = dataclasses.replace(config, steps=6, samples=SampleConfig())
    command.train(quiet, str(tmp_path), profile=True)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.slow
def test_live_clips_are_those_of_a_cache(checkpoint_dir, tmp_path):
    options = {"dtype": "float32", "max_text_tokens": 32, "seed": 4, "posterior": "sample"}
    cache = Cache("toy:2", str(checkpoint_dir), str(tmp_path), forms=("32x32x5",), **options)
    cache.run()
    cached = Dataset(tmp_path)
    placement = MeshPlacement(MeshConfig().make(), TRAINING)
    live = LiveToy("toy:2 32x32x5", Encoders.open(checkpoint_dir, placement), 32, seed=4, dtype="float32")
    assert live.forms == cached.forms
    assert live.encoding == cached.encoding
    for number in range(2):
        one, two = live[number], cached[number]
        assert one.key == two.key
        assert dict(one.captions) == dict(two.captions)
        for name in two.arrays:
            np.testing.assert_allclose(one.arrays[name], two.arrays[name], atol=1e-5)
    np.testing.assert_array_equal(live.prompts()[""], cached.prompts()[""])


def test_clips_cannot_be_encoded_without_encoders(config):
    with pytest.raises(InputError, match="is encoded while training: expected a checkpoint with the encoders"):
        DiTTraining.of(dataclasses.replace(config, checkpoint=None, samples=SampleConfig()))


@pytest.mark.slow
def test_a_nan_in_the_data_ends_the_run(tmp_path, monkeypatch):
    """With the last good checkpoint kept: the damaged latents come third."""
    original = caches.record

    def broken(number, *args):
        record = original(number, *args)
        record.arrays["latents"].flat[1] = np.nan
        return record

    monkeypatch.setattr(caches, "record", broken)
    bad = caches.dataset(tmp_path / "bad", [(2, 4, 4)] * 2)
    monkeypatch.setattr(caches, "record", original)
    good = caches.dataset(tmp_path / "good", [(2, 4, 4)] * 2)
    config = TrainConfig(
        model=training.TINY,
        data=DataConfig(paths=(good, bad), weights=(3, 1), batches=Settings(tokens=16, text_tokens=6)),
        optimizer=AdamW(rate=1e-3, warmup=0),
        steps=8,
        save_every=1,
        log_every=1,
        dtype="float32",
        mesh="data=1",
    )
    with pytest.raises(InputError, match=r"step \d: the loss or its gradient is not finite"):
        command.train(config, str(tmp_path / "run"))
    steps = sorted(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())
    records = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert steps
    assert steps[-1] == records[-1]["step"] < 5
    assert all(np.isfinite(record["loss"]) for record in records)
    restored = DiTTraining.of(dataclasses.replace(config, init=str(tmp_path / f"run/checkpoints/{steps[-1]}"))).start()
    assert all(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(restored.trained))
