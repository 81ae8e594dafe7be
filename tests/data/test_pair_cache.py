"""What a cache of pairs holds is what refinement would give the network, to rounding."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax import Pipeline
from lcv_jax.data import cache
from lcv_jax.data.degrade import Degrading
from lcv_jax.data.images import to_model
from lcv_jax.data.pair_sources import low_clip
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.shards import Dataset
from lcv_jax.data.toy import ToySource
from lcv_jax.data.toy.source import Form
from lcv_jax.errors import InputError
from lcv_jax.sample import refine
from lcv_jax.sample.options import Options

DEGRADING = Degrading(chance=1)


@pytest.fixture(scope="module")
def pipe(checkpoint_dir):
    return Pipeline.from_pretrained(checkpoint_dir, dtype="float32")


def asked(checkpoint_dir, out, **given) -> cache.Cache:
    return cache.Cache(
        source="toy:2",
        checkpoint=str(checkpoint_dir),
        out=str(out),
        forms=("64x64x5",),
        low_size="32x32",
        pairs="spatial",
        degrading=DEGRADING,
        dtype="float32",
        compute_dtype="float32",
        max_text_tokens=16,
        **given,
    )


@pytest.mark.parametrize(("mode", "cond_frames"), [("spatial", 1), ("spatio-temporal", 0)])
def test_pairs_are_what_refinement_starts_from_and_shall_reach(pipe, checkpoint_dir, tmp_path, mode, cond_frames):
    """The same clip through `sample.refine`, with noise of zeros, which leaves half of what was encoded."""
    made = dataclasses.replace(asked(checkpoint_dir, tmp_path, cond_frames=cond_frames), pairs=mode)
    index = made.run()
    pairs = Pairs(mode, cond_frames)
    assert (index.encoding.pairs, index.encoding.fps) == (pairs, 15 * pairs.times)
    item = ToySource(2, 0, (Form((64, 64), 5 * pairs.times),), (1, 2, 3), "train")[1]
    low = low_clip(item["video"], pairs, (32, 32), item["key"], DEGRADING)
    seen = pipe.frames(pipe.encode_video(to_model(low)[None]))[0]
    condition = {"condition": item["video"][:cond_frames], "num_cond_frames": cond_frames} if cond_frames else {}
    options = Options(size=(64, 64), max_text_tokens=16, posterior="mode")
    shape = refine.plan(pipe.opened, seen.shape[:3], cond_frames, options, spatial_only=mode == "spatial").shape
    request = refine.request(
        pipe.opened, seen, options, **condition, spatial_only=mode == "spatial", noise=np.zeros(shape)
    )
    given = refine.prepare(pipe, request, "")
    record = Dataset(tmp_path)[1]
    assert record.key == item["key"]
    n = given.num_cond
    assert n == pairs.cond_latents
    high, up = record.arrays["latents"], record.arrays["upsampled"]
    assert high.shape == up.shape == shape[1:]
    np.testing.assert_allclose(up[n:], 2 * given.latents[0, n:], atol=2e-3)
    np.testing.assert_allclose(high[:n], given.latents[0, :n], atol=2e-3)
    assert np.abs(high - up)[n:].mean() > 0.05
    window = pairs.window(5 * pairs.times)
    whole = pipe.encode_video(to_model(item["video"][window.shown])[None])
    np.testing.assert_allclose(high, whole[0], atol=2e-3)


def test_poor_clips_are_counted_and_deviations_kept(checkpoint_dir, tmp_path):
    made = asked(checkpoint_dir, tmp_path, min_texture=1.8, posterior="sample")
    made = dataclasses.replace(made, forms=("32x32x5",), source="toy:6", batch=2)
    index = made.run()
    skipped = [reason for shard in index.shards for _, reason in shard.skipped]
    assert 0 < len(skipped) < 6
    assert all("poor texture, entropy" in reason for reason in skipped)
    count = len(skipped)
    assert f"{count} clips skipped, {count} of them for poor texture" in cache._summary("x", index)
    arrays = Dataset(tmp_path)[0].arrays
    for name in ("deviations", "upsampled deviations"):
        assert arrays[name].shape == arrays["latents"].shape
        assert (arrays[name] > 0).all()
    assert not jnp.allclose(arrays["deviations"], arrays["upsampled deviations"])
    with pytest.raises(InputError, match=r"was begun with min_texture 1\.8, now it is None"):
        dataclasses.replace(made, min_texture=0).run()
    with pytest.raises(InputError, match=r"was begun with low .*, now it is None"):
        dataclasses.replace(made, pairs=None).run()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"pairs": None, "cond_frames": 1}, "--cond-frames 1: is of --pairs; the loader draws other clips' tasks"),
        ({"cond_frames": -1}, "pairs, cond_frames=-1: expected a whole number from 0"),
        ({"latent_multiple": 0}, "pairs, multiple=0: expected a whole number from 1"),
        ({"min_texture": -1.0}, r"--min-texture -1\.0: expected bits from 0"),
        ({"low_size": "30x32"}, "size 30 x 32: height and width must be multiples of 16"),
        ({"cond_frames": 5}, "none of 2 clips can be used, the first: num_cond_frames=5 of 5 refined frames"),
        ({"forms": ("64x64x1",)}, "none of 2 clips can be used, the first: .* is a picture, expected a video"),
    ],
)
def test_bad_pairs_are_refused(checkpoint_dir, tmp_path, given, match):
    with pytest.raises(InputError, match=match):
        dataclasses.replace(asked(checkpoint_dir, tmp_path), **given).run()
