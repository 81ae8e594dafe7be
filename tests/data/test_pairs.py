"""Pairs: what a low clip is made of, which clips make none, and what is told of them."""

import dataclasses

import numpy as np
import pytest

from lcv_jax.data.degrade import Degrading
from lcv_jax.data.images import resize_lanczos
from lcv_jax.data.pair_sources import Paired, Textured, low_clip
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.sizes import Sizes
from lcv_jax.data.sources import Item, open_toy
from lcv_jax.errors import InputError

UNTOUCHED = Degrading(chance=0)
LOW = Sizes.of("32x32")


def source(form="64x64x5", times=1):
    return open_toy("toy:3", (form,), 0, "train", (1,), times)


def test_low_clips_are_smaller_and_every_second_frame():
    item = source(times=2)[0]
    assert item.frames.shape == (10, 64, 64, 3)
    for mode, step in (("spatial", 1), ("spatio-temporal", 2)):
        low = low_clip(item.frames, Pairs(mode), (32, 48), "a", UNTOUCHED)
        np.testing.assert_array_equal(low, resize_lanczos(item.frames[::step], (32, 48)))


def test_what_is_drawn_depends_on_the_clips_key_and_the_seed():
    frames = source()[0].frames
    always = Degrading(chance=1)
    base = low_clip(frames, Pairs("spatial"), (32, 32), "a", always)
    np.testing.assert_array_equal(base, low_clip(frames, Pairs("spatial"), (32, 32), "a", always))
    for pairs, key in ((Pairs("spatial"), "b"), (Pairs("spatial", seed=1), "a")):
        assert (low_clip(frames, pairs, (32, 32), key, always) != base).any()


def test_a_paired_source_is_the_source_with_low_clips():
    plain, paired = source(), Paired(source(), Pairs("spatial"), LOW, UNTOUCHED)
    assert (len(paired), paired.key(1), paired.name) == (3, plain.key(1), plain.name)
    one, two = plain[1], paired[1]
    np.testing.assert_array_equal(one.frames, two.frames)
    assert one.low is None
    assert two.low.shape == (5, 32, 32, 3)


def test_pictures_and_clips_without_anything_new_are_refused():
    with pytest.raises(InputError, match="is a picture, expected a video: refinement is trained on videos"):
        Paired(source("64x64x1"), Pairs("spatial"), LOW, UNTOUCHED)[0]
    with pytest.raises(InputError, match="num_cond_frames=5 of 5 refined frames: expected fewer"):
        Paired(source(), Pairs("spatial", cond_frames=5), LOW, UNTOUCHED)[0]


@dataclasses.dataclass(frozen=True)
class Flat:
    """One grey clip."""

    name: str = "flat"

    def __len__(self):
        return 1

    def key(self, number):
        return "grey"

    def __getitem__(self, number):
        return Item("grey", np.full((5, 32, 32, 3), 99, np.uint8), {})


def test_clips_of_poor_texture_are_refused():
    with pytest.raises(InputError, match=r"grey: poor texture, entropy 0.00 bits, below 0.5"):
        Textured(Flat(), 0.5)[0]
    kept = Textured(source(), 0.1)
    assert (len(kept), kept.key(2), kept.name) == (3, source().key(2), source().name)
    np.testing.assert_array_equal(kept[2].frames, source()[2].frames)


@pytest.mark.parametrize(
    ("cond_frames", "task", "latents"), [(0, "t2v", 0), (1, "i2v", 4), (13, "vc", 4), (26, "vc", 8), (25, "vc", 8)]
)
def test_conditions_are_those_of_sampling(cond_frames, task, latents):
    pairs = Pairs("spatio-temporal", cond_frames)
    assert (pairs.task, pairs.cond_latents, pairs.times) == (task, latents, 2)
    found = pairs.window(186)
    assert (found.cond_frames, found.cond_latents) == (cond_frames, latents)


def test_json_and_back():
    pairs = Pairs("spatial", 13, 2, 5)
    assert Pairs.from_json(dataclasses.asdict(pairs), "index.json") == pairs
    for bad in ({"mode": "spatial"}, [], dataclasses.asdict(pairs) | {"more": 1}):
        with pytest.raises(
            InputError, match=r"index.json: expected cond_frames, mode, multiple, seed; write the cache"
        ):
            Pairs.from_json(bad, "index.json")


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"mode": "temporal"}, "pairs, mode='temporal': expected spatial or spatio-temporal"),
        ({"mode": "spatial", "cond_frames": -1}, "pairs, cond_frames=-1: expected a whole number from 0"),
        ({"mode": "spatial", "multiple": 0}, "pairs, multiple=0: expected a whole number from 1"),
        ({"mode": "spatial", "seed": 0.5}, "pairs, seed=0.5: expected a whole number from 0"),
    ],
)
def test_bad_pairs_are_refused(given, match):
    with pytest.raises(InputError, match=match):
        Pairs(**given)
