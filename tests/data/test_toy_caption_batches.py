"""Batches of captions: pure, resumable, half of each language, labelled by what they tell."""

import jax
import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.data.text import Tokenizer
from lcv_jax.data.toy.base import corpus, write_tokenizer
from lcv_jax.data.toy.caption_batches import CaptionBatches
from lcv_jax.data.toy.labels import labels
from lcv_jax.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, list(corpus(1000, 0)))
    return Tokenizer.open(folder)


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_batch_is_captions_and_what_they_tell(tokenizer):
    feed = CaptionBatches(tokenizer, 8, 0)
    next(feed)
    batch = next(feed)
    captions = [feed.caption(number) for number in range(8, 16)]
    encoded = tokenizer.encode(captions, 64)
    np.testing.assert_array_equal(batch.ids, encoded.ids)
    np.testing.assert_array_equal(batch.mask, encoded.mask)
    assert same(batch.labels, labels([toy.parse(caption) for caption in captions]))
    assert all(len(leaf) == 8 for leaf in jax.tree.leaves(batch))


@pytest.mark.smoke
def test_a_resumed_feed_gives_the_same_batches(tokenizer):
    feed = CaptionBatches(tokenizer, 4, 3)
    assert next(iter(feed)) is not None
    state = feed.get_state()
    assert state == {"position": 1}
    ahead = [next(feed) for _ in range(3)]
    resumed = CaptionBatches(tokenizer, 4, 3)
    resumed.set_state(state)
    assert all(same(batch, next(resumed)) for batch in ahead)
    assert not same(ahead[0], ahead[1])
    assert not same(next(CaptionBatches(tokenizer, 4, 3)), next(CaptionBatches(tokenizer, 4, 4)))


def test_captions_are_mixed(tokenizer):
    feed = CaptionBatches(tokenizer, 1, 0)
    captions = [feed.caption(number) for number in range(600)]
    told = [toy.parse(caption) for caption in captions]
    spread = 4 * (600 * 0.25) ** 0.5
    assert sum(caption.isascii() for caption in captions) == pytest.approx(300, abs=spread)
    assert sum(facts.moving for facts in told) == pytest.approx(300, abs=spread)
    assert sum(caption[-1] in ".。" for caption in captions) == pytest.approx(450, abs=spread)
    assert {len(facts.objects) for facts in told} == {1, 2, 3}


def test_what_is_held_out_is_never_shown(tokenizer):
    shown, held = (
        {toy.parse(feed.caption(number)) for number in range(400)}
        for split in toy.SPLITS
        for feed in [CaptionBatches(tokenizer, 1, 0, split=split, counts=(1,), languages=("zh",))]
    )
    # Captions that leave the ground out tell less than what decides about the split.
    whole = {facts for facts in shown if facts.ground}, {facts for facts in held if facts.ground}
    assert not whole[0] & whole[1]
    assert all(toy.split_of(facts) == "held_out" for facts in whole[1])
    assert {len(facts.objects) for facts in shown | held} == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, "batch=0, tokens=64: expected at least 1 of each"),
        ({"tokens": 0}, "batch=2, tokens=0: expected at least 1 of each"),
        ({"languages": ()}, r"languages=\(\): expected some of en, zh"),
        ({"languages": ("fr",)}, r"languages=\('fr',\): expected some of en, zh"),
        ({"split": "test"}, "split 'test': expected one of train, held_out"),
        ({"counts": (4,)}, r"counts=\(4,\): expected numbers of objects"),
        ({"seed": -1}, "seed=-1: expected an integer"),
    ],
)
def test_what_cannot_be_is_refused(tokenizer, settings, message):
    with pytest.raises(InputError, match=message):
        CaptionBatches(tokenizer, **{"batch": 2, "seed": 0} | settings)


def test_a_caption_that_does_not_fit_is_refused(tokenizer):
    with pytest.raises(InputError, match=r"tokens=4: there is one of \d+ tokens; allow for more"):
        next(CaptionBatches(tokenizer, 2, 0, tokens=4))


@pytest.mark.parametrize("state", [{}, {"position": -1}, {"position": "1"}, {"position": 1, "more": 2}])
def test_a_state_of_another_kind_is_refused(tokenizer, state):
    with pytest.raises(InputError, match=r"captions, state .*: expected a position from 0"):
        CaptionBatches(tokenizer, 2, 0).set_state(state)
