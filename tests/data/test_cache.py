"""What a cache holds is what the encoders give; it is finished shard by shard, and damaged clips are told."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.data import cache
from lcv_jax.data.images import to_model, write_png
from lcv_jax.data.shards import Dataset
from lcv_jax.data.toy import render, sample
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from lcv_jax.models.vae import normalize
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING
from lcv_jax.sample.defaults import NEGATIVE_PROMPT
from lcv_jax.sample.encoders import Encoders, fingerprint


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Two videos, a short one, a picture, and a file that is no video."""
    folder = tmp_path_factory.mktemp("clips")
    frames = [render(sample(n), n, (32, 32), 9)[0] for n in range(3)]
    write_video(folder / "a.mp4", frames[0][:5], 15)
    write_video(folder / "b.mp4", frames[1][:7], 15)
    write_video(folder / "short.mp4", frames[2][:3], 15)
    write_png(folder / "d.png", frames[2][0])
    (folder / "broken.mp4").write_bytes(b"nothing")
    lines = [
        {"file": "a.mp4", "caption": "a circle"},
        {"file": "b.mp4", "en": "a star", "zh": "一颗星"},
        {"file": "short.mp4", "caption": "short"},
        {"file": "broken.mp4", "caption": "broken"},
        {"file": "d.png", "captions": {"long": "a picture"}},
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


@pytest.fixture(scope="module")
def asked(clips, checkpoint_dir):
    return cache.Cache(
        source=str(clips),
        checkpoint=str(checkpoint_dir),
        out="",
        size="32x32",
        frames=(5,),
        dtype="float32",
        posterior="sample",
        max_text_tokens=16,
        shard_records=2,
    )


@pytest.fixture(scope="module")
def written(asked, tmp_path_factory):
    asked = dataclasses.replace(asked, out=str(tmp_path_factory.mktemp("cache")))
    return asked, asked.run()


@pytest.fixture(scope="module")
def encoders(checkpoint_dir):
    placement = MeshPlacement(MeshConfig().make(), SAMPLING)
    return Encoders.open(checkpoint_dir, placement).load()


def test_records_are_what_the_encoders_give(written, encoders, clips):
    dataset = Dataset(written[0].out)
    assert [dataset[i].key for i in range(3)] == ["a.mp4", "b.mp4", "d.png"]
    assert dataset.forms == ((2, 4, 4), (2, 4, 4), (1, 4, 4))
    picture = dataset[2]
    frames = render(sample(2), 2, (32, 32), 9)[0][:1]
    found = encoders.coder.encode(encoders.params["vae"], to_model(frames)[None])
    config = encoders.files["vae"].config
    np.testing.assert_allclose(picture.arrays["latents"], normalize(config, found.mean)[0], atol=1e-4)
    spread = np.exp(0.5 * np.asarray(found.logvar[0])) / np.array(config.latents_std)
    np.testing.assert_allclose(picture.arrays["deviations"], spread, rtol=1e-3)


def test_text_is_as_long_as_its_tokens(written, encoders):
    dataset = Dataset(written[0].out)
    assert dict(dataset[1].captions) == {"en": "a star", "zh": "一颗星"}
    tokens = encoders.tokenizer.encode(["a star"], 16)
    states = encoders.text_encoder.apply(
        {"params": encoders.params["text_encoder"]}, jnp.asarray(tokens.ids), jnp.asarray(tokens.mask)
    )
    length = int(tokens.mask.sum())
    np.testing.assert_allclose(dataset[1].arrays["text.en"], states[0, :length], atol=1e-4)
    assert dataset.prompts()[""].shape == (1, 64)


def test_the_negative_prompt_is_encoded_once_and_added_to_a_cache_without_it(written, encoders):
    """Given anew it takes the place of the one before; clips and what is known of them stay as they are."""
    asked, index = written
    texts = {"", NEGATIVE_PROMPT}
    assert set(Dataset(asked.out).prompts()) == texts
    (states,) = encoders.encode_prompts([NEGATIVE_PROMPT], 16)
    np.testing.assert_allclose(Dataset(asked.out).prompts()[NEGATIVE_PROMPT], states, atol=1e-4)
    other = dataclasses.replace(asked, negative_prompt="grey").run()
    assert set(Dataset(asked.out).prompts()) == {"", "grey"}
    assert dataclasses.replace(asked, negative_prompt="").run() == other
    assert (other.shards, other.encoding) == (index.shards, index.encoding)
    assert asked.run() == index


def test_what_cannot_be_used_is_told(written):
    asked, index = written
    skipped = dict(pair for shard in index.shards for pair in shard.skipped)
    assert "has 3 frames at 15 a second, fewer than (5,)" in skipped["short.mp4"]
    assert "broken.mp4" in skipped
    summary = cache._summary(asked.out, index)
    assert "3 records (1 of 1x4x4, 2 of 2x4x4)" in summary
    assert "2 clips skipped" in summary


def test_parts_and_repairs_give_the_same_dataset(written, tmp_path):
    """Two processes' parts, and a cache that lost a shard, are the whole to the last bit."""
    asked, index = written
    parts = dataclasses.replace(asked, out=str(tmp_path / "parts"))
    assert dataclasses.replace(parts, part="1/2").run() is None
    with pytest.raises(InputError, match=r"no such file: expected a folder that lcv_jax.data.cache has finished"):
        Dataset(parts.out)
    assert dataclasses.replace(parts, part="0/2").run() == index
    assert Dataset(parts.out).fingerprint == Dataset(asked.out).fingerprint
    for lost in ("index.json", "00000.json", "00000.arrayrecord"):
        (tmp_path / "parts" / lost).unlink()
    assert parts.run() == index
    assert Dataset(parts.out).fingerprint == Dataset(asked.out).fingerprint


def test_other_settings_do_not_continue_a_cache(written):
    asked, _ = written
    with pytest.raises(InputError, match=r"was begun with frames \[5\], now it is \[9\]; give the same to continue"):
        dataclasses.replace(asked, frames=(9,)).run()


def test_the_fingerprint_is_that_of_the_weights(encoders):
    model = encoders.files["vae"]
    assert fingerprint(model) == fingerprint(model)
    assert fingerprint(model) != fingerprint(encoders.files["text_encoder"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"source": "toy:3"}, "no --forms, expected some such as 64x64x13"),
        ({"source": "toy:3", "forms": ("64x64",)}, "--forms '64x64': expected HEIGHTxWIDTHxFRAMES"),
        ({"source": "toy:3", "forms": ("64x64x13@a",)}, "expected HEIGHTxWIDTHxFRAMES, and @WEIGHT"),
        ({"source": "toy:many"}, "toy:many: expected toy:COUNT"),
        ({"source": "toy:0", "forms": ("64x64x13",)}, "holds no clips, expected at least one"),
        ({"source": "/nowhere"}, "/nowhere: no such folder or list: expected a folder of clips"),
        ({"frames": (6,)}, r"--frames \(6,\): expected numbers 4n \+ 1"),
        ({"size": "32"}, "size '32': expected 256p"),
        ({"size": "30x32"}, "size 30 x 32: height and width must be multiples of 16"),
        ({"part": "2/2"}, "--part 2/2: expected I/N with I from 0"),
        ({"batch": 0}, "--batch 0: expected at least 1"),
        ({"shard_records": 0}, "--shard-records 0: expected at least 1"),
        ({"checkpoint": "/nowhere/at-all"}, "/nowhere/at-all"),
    ],
)
def test_bad_input_is_refused(asked, tmp_path, given, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(asked, **{"out": str(tmp_path), **given}).run()


@pytest.mark.parametrize(
    ("line", "match"),
    [("{", "line 1: expected a JSON object"), ('{"file": "a.mp4"}', "line 1"), ('{"file": 1, "en": "a"}', "line 1")],
)
def test_bad_lists_are_refused(asked, tmp_path, line, match):
    path = tmp_path / "list.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=match):
        dataclasses.replace(asked, source=str(path), out=str(tmp_path / "out")).run()


def test_captions_stand_beside_clips(asked, tmp_path):
    write_png(tmp_path / "a.png", np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(InputError, match=r"a.png: has no caption: expected a.txt beside it, or a captions.jsonl"):
        dataclasses.replace(asked, source=str(tmp_path)).run()
    (tmp_path / "a.txt").write_text("a square\n")
    source = dataclasses.replace(asked, source=str(tmp_path))._source()
    assert source[0].captions == {"caption": "a square"}
    assert source[0].frames.shape == (1, 32, 32, 3)


def test_the_command_says_it_in_a_line(capsys, tmp_path):
    args = ["--source", "/nowhere", "--checkpoint", "x", "--out", str(tmp_path)]
    assert cache.main(args) == 2
    assert capsys.readouterr().err.startswith("error: --source /nowhere: no such folder or list")
