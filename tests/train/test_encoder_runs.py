"""Runs of the autoencoder and the text encoder from data to an exported model, and what is refused."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import caches
import training
from lcv_jax.checkpoint import __main__ as checkpoints
from lcv_jax.checkpoint import layout
from lcv_jax.data.clip_batches import ClipLoader, ClipSet, ClipSettings
from lcv_jax.data.images import to_model
from lcv_jax.data.toy.base import corpus, write_tokenizer
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae import normalize
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING
from lcv_jax.sample.encoders import Encoders
from lcv_jax.train import command
from lcv_jax.train.config import CaptionSettings, TextTrainConfig, VAETrainConfig, read_recipe
from lcv_jax.train.encoders import CaptionRows, TextTraining, VAETraining
from lcv_jax.train.export import export_run
from lcv_jax.train.loop import End
from lcv_jax.train.optimizer import AdamW, Muon
from training import RECIPE, lines

TINY = VAEConfig(4, 2, (1, 1), 1, (True,), latents_mean=(0.0,) * 2, latents_std=(1.0,) * 2)


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """Runs of one config share their programs."""
    with training.programs_kept(tmp_path_factory.mktemp("programs")):
        yield


def vae_config(*sets: ClipSet) -> VAETrainConfig:
    return VAETrainConfig(
        model=TINY,
        data=ClipSettings(sets or (ClipSet("toy:9", "32x32x3", window=(8, 8), batch=2),)),
        optimizer=Muon(rate=3e-3, warmup=1, cooldown=(2, 8)),
        steps=4,
        save_every=2,
        log_every=1,
        ema_decay=0.5,
        dtype="float32",
        mesh="data=1",
    )


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, list(corpus(1000, 0)))
    return folder


@pytest.fixture(scope="module")
def text_config(tokenizer) -> TextTrainConfig:
    return TextTrainConfig(
        model=UMT5Config(vocab_size=512, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
        data=CaptionSettings(str(tokenizer), batch=4, tokens=64),
        optimizer=Muon(rate=1e-2, warmup=1),
        steps=4,
        save_every=2,
        log_every=1,
        ema_decay=None,
        dtype="float32",
        mesh="data=1",
    )


@pytest.fixture(scope="module")
def configs(text_config) -> dict:
    return {"vae": vae_config(), "text_encoder": text_config}


@pytest.fixture(scope="module")
def run_of(configs, tmp_path_factory) -> Callable[[str], pathlib.Path]:
    """An undisturbed run of each, when first asked for."""

    @functools.cache
    def run(name: str) -> pathlib.Path:
        folder = tmp_path_factory.mktemp(name)
        assert command.train(configs[name], str(folder)) == (4, End.FINISHED)
        return folder

    return run


@pytest.fixture(scope="module")
def exported(run_of, tokenizer, tmp_path_factory) -> pathlib.Path:
    """A checkpoint of both, with the tokenizer and a schedule."""
    folder = tmp_path_factory.mktemp("exported")
    for name in ("vae", "text_encoder"):
        args = ["export", str(run_of(name) / "checkpoints/4"), str(folder / name), "--dtype", "float32"]
        assert checkpoints.main(args) == 0
    (folder / "tokenizer").symlink_to(tokenizer)
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(ScheduleConfig(shift=3.0).to_json()))
    return folder


@pytest.mark.parametrize("name", ["vae", "text_encoder"])
def test_a_run_leaves_what_it_should(run_of, configs, name):
    run, config = run_of(name), configs[name]
    assert sorted(os.listdir(run / "checkpoints")) == ["2", "4"]
    assert [line["step"] for line in lines(run)] == [1, 2, 3, 4]
    own = {"vae": {"psnr", "divergence"}, "text_encoder": {"read", "read by kind"}}[name]
    assert {"loss", "grad_norm", "finite", "damaged"} | own == set(lines(run)[0]) - {"step"}
    assert json.loads((run / "config.json").read_text()) == config.to_json()
    assert config.to_json()["trains"] == name


@pytest.mark.parametrize("name", [pytest.param("vae", marks=pytest.mark.slow), "text_encoder"])
def test_stopped_and_continued_is_as_if_nothing_had_been(run_of, configs, name, tmp_path):
    """Parameters, moments of both of Muon's parts, mean, key and the data's position, to the last bit."""
    assert command.train(dataclasses.replace(configs[name], steps=2), str(tmp_path)) == (2, End.FINISHED)
    assert command.train(configs[name], str(tmp_path)) == (4, End.FINISHED)
    one, two = (training.whole(configs[name], run, 4) for run in (run_of(name), tmp_path))
    training.same(one, two)
    assert lines(tmp_path) == lines(run_of(name))
    assert any("muon" in leaf and "kernel" in leaf for leaf in one[0])
    assert any("adam" in leaf and ".nu" in leaf for leaf in one[0])


def test_the_exported_autoencoder_is_the_trained_one(run_of, exported):
    """Its mean in float32, in the published layout; latents of the clips measured are normal."""
    model = layout.open_model(layout.COMPONENTS["vae"], exported / "vae")
    kept = vae_config()
    assert dataclasses.replace(model.config, latents_mean=TINY.latents_mean, latents_std=TINY.latents_std) == TINY
    encoders = Encoders.open(exported, MeshPlacement(MeshConfig().make(), SAMPLING), "float32").load()
    loaded = jax.tree.leaves(encoders.params["vae"])
    for ours, theirs in zip(training.trained(kept, run_of("vae"), 4, "ema"), loaded, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    clips = ClipLoader(ClipSettings((ClipSet("toy:9", "32x32x3", batch=2),), seed=1), (2, 2))
    means = [encoders.posterior(to_model(next(clips).frames)).mean for _ in range(32)]
    latents = np.asarray(normalize(model.config, jnp.concatenate(means)), np.float64)
    np.testing.assert_allclose(latents.mean(axis=(0, 1, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2, 3)), 1, atol=1e-3)


def test_the_exported_text_encoder_is_the_trained_one(run_of, exported, text_config):
    """Without its reader; it encodes prompts, each as long as its tokens."""
    encoders = Encoders.open(exported, MeshPlacement(MeshConfig().make(), SAMPLING), "float32").load()
    state, _ = training.whole(text_config, run_of("text_encoder"), 4)
    embedding = state[".trained['encoder']['shared']['embedding']"]
    np.testing.assert_array_equal(encoders.params["text_encoder"]["shared"]["embedding"], embedding)
    assert any("reader" in name for name in state)
    assert "reader" not in encoders.params["text_encoder"]
    short, long = encoders.encode_prompts(["A star.", "A red circle moves to the right."], 64)
    assert short.shape[1] == long.shape[1] == 16
    assert 0 < len(short) < len(long)
    assert np.isfinite(long).all()


@pytest.mark.slow
def test_another_autoencoder_begins_with_it(run_of, exported):
    """With the exported weights, whatever the statistics; or with a run's mean."""
    for place in (exported, exported / "vae", run_of("vae") / "checkpoints/4"):
        started = VAETraining.of(dataclasses.replace(vae_config(), init=str(place))).start()
        mean = training.trained(vae_config(), run_of("vae"), 4, "ema")
        for ours, theirs in zip(jax.tree.leaves(started.trained), mean, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert int(started.step) == 0
    other = dataclasses.replace(vae_config(), model=dataclasses.replace(TINY, base_dim=8), init=str(exported))
    with pytest.raises(InputError, match="its architecture is not the recipe's"):
        VAETraining.of(other).start()
    other = dataclasses.replace(vae_config(), init=str(run_of("text_encoder") / "checkpoints/4"))
    with pytest.raises(InputError, match="it is of another model"):
        VAETraining.of(other).start()


def test_a_run_of_another_kind_is_refused(run_of, text_config, tmp_path):
    run = run_of("text_encoder")
    kept = (run / "config.json").read_bytes()
    with pytest.raises(InputError, match="holds a run that trains text_encoder, this trains vae; choose another --out"):
        command.train(vae_config(), str(run))
    changed = dataclasses.replace(text_config, optimizer=AdamW(rate=1e-3))
    with pytest.raises(
        InputError, match=r"another config: .*optimizer/rate was 0.01, is 0.001; .*choose another --out"
    ):
        command.train(changed, str(run))
    base, _ = read_recipe(RECIPE)
    place = caches.dataset(tmp_path / "data", [(2, 4, 4)] * 2)
    transformer = dataclasses.replace(base, data=dataclasses.replace(base.data, paths=(place,)))
    with pytest.raises(InputError, match="holds a run that trains text_encoder, this trains dit"):
        command.train(transformer, str(run))
    assert (run / "config.json").read_bytes() == kept


def test_a_kept_config_that_is_none_is_refused(tmp_path):
    """A damaged value in the config of a run that is exported."""
    kept = vae_config().to_json()
    for change, match in (
        ({"model": {"width": 3}}, "config.json, model: .*width.*: expected the config that the run began with"),
        ({"data": None}, "config.json, data: "),
        ({"trains": "dog"}, 'expected a JSON object, and "trains" in it: '),
    ):
        (tmp_path / "config.json").write_text(json.dumps(kept | change))
        with pytest.raises(InputError, match=match):
            export_run(tmp_path / "checkpoints/4", tmp_path / "out")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": dataclasses.replace(TINY, in_channels=1)}, "model: 1 channels in, 3 out; clips have 3"),
        ({"accumulate": 4}, "batches of 2 samples of 3x32x32: .* set data.sets.0.batch to that"),
        ({"data": ClipSettings(())}, "data.sets: none given"),
        ({"data": ClipSettings((ClipSet("toy:9", "32x32x4"),))}, r"expected 2n \+ 1 frames"),
        ({"mesh": "data=2"}, "needs 2 devices, there are 1"),
    ],
)
def test_autoencoders_that_cannot_be_trained_are_refused(change, match, tmp_path):
    with pytest.raises(InputError, match=match):
        command.train(dataclasses.replace(vae_config(), **change), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_text_encoders_that_cannot_be_trained_are_refused(text_config, tokenizer, tmp_path):
    def refused(match, **change):
        with pytest.raises(InputError, match=match):
            command.train(dataclasses.replace(text_config, **change), str(tmp_path / "run"))
        assert not (tmp_path / "run").exists()

    small = dataclasses.replace(text_config.model, vocab_size=64)
    refused(r"has \d+ ids, vocab_size is 64: expected at least as many; give another tokenizer", model=small)
    refused("the text encoder's reader is in no checkpoint; leave it out", init="anything")
    refused("set data.batch to that", accumulate=3)
    refused("tokens=4: there is one of", data=CaptionSettings(str(tokenizer), batch=4, tokens=4))
    refused("tokenizer", data=CaptionSettings(str(tmp_path / "nowhere")))


def test_captions_of_another_tokenizer_are_refused(text_config, tmp_path):
    rows = TextTraining.of(text_config).feed.loader
    state = json.loads(json.dumps(rows.get_state()))
    rows.set_state(state)
    other = tmp_path / "tokenizer"
    other.mkdir()
    write_tokenizer(other, list(corpus(1000, 1)))
    data = dataclasses.replace(text_config.data, tokenizer=str(other))
    with pytest.raises(InputError, match=r"captions were read by another tokenizer: \w+ then, \w+ now"):
        TextTraining.of(dataclasses.replace(text_config, data=data)).feed.set_state(state)
    with pytest.raises(InputError, match="by another tokenizer: None then"):
        rows.set_state({"position": 2})


def test_captions_of_two_hosts_are_those_of_one(text_config):
    whole = TextTraining.of(text_config).feed.loader
    batch = next(whole)
    parts = [CaptionRows(whole.batches, rows, whole.tokenizer) for rows in ((0, 1), (2, 3))]
    for part, rows in zip(parts, (slice(0, 2), slice(2, 4)), strict=True):
        whole.batches.set_state({"position": 0})
        mine = next(part)
        assert mine.size == batch.size == 4
        for ours, all_of in zip(jax.tree.leaves(mine.captions), jax.tree.leaves(batch.captions), strict=True):
            np.testing.assert_array_equal(ours, all_of[rows])


def test_plans_tell_the_batches(text_config):
    sets = (ClipSet("toy:9", "32x32x1", batch=4), ClipSet("toy:9", "32x32x3", window=(8, 16), batch=2, weight=3))
    told = command.plan(VAETraining.of(vae_config(*sets)))
    assert "4 x 1 frames of 32x32: 1,024 tokens" in told
    assert "2 x 3 frames of 8x16: 128 tokens" in told
    assert "shares of the batches by dataset and form: 0 0.250, 1 0.750" in told
    assert "4 captions of 64 tokens: 256 tokens" in command.plan(TextTraining.of(text_config))
