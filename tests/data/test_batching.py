"""Shares of a mixture are exact at every moment, and epochs leave no record out."""

import collections

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lcv_jax.data.batching import Tasks, Turns, batch_size, drawn, streams
from lcv_jax.errors import InputError


@hypothesis.given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
@hypothesis.settings(max_examples=40, deadline=None)
def test_every_stream_has_had_its_share_to_less_than_a_batch(weights):
    shares = np.array(weights) / sum(weights)
    turns = Turns(shares, [0] * len(weights))
    for taken in range(1, 120):
        turns.next()
        assert np.abs(turns.counts - shares * taken).max() < 1


def test_turns_go_on_from_their_counts():
    shares = [0.5, 0.3, 0.2]
    whole = Turns(shares, [0, 0, 0])
    order = [whole.next() for _ in range(50)]
    half = Turns(shares, np.bincount(order[:23], minlength=3))
    assert [half.next() for _ in range(27)] == order[23:]


@pytest.mark.smoke
def test_an_epochs_remainder_is_completed_from_the_next():
    """Seven records in batches of three: every seven positions are the seven records, and batches have no gap."""
    (stream,) = streams([("a", [(1, 2, 2)] * 7)], [1], {(1, 2, 2): 3})
    seen = [stream.record(position, seed=5) for position in range(70)]
    for epoch in zip(*[iter(seen)] * 7, strict=True):
        assert sorted(epoch) == list(range(7))
    assert seen[:7] != seen[7:14]
    assert seen != [stream.record(position, seed=6) for position in range(70)]


def test_all_records_of_a_dataset_are_seen_equally_often():
    forms = [(1, 4, 4)] * 30 + [(2, 4, 4)] * 10 + [(4, 4, 4)] * 5
    sizes = {(1, 4, 4): 8, (2, 4, 4): 4, (4, 4, 4): 2}
    made = streams([("a", forms)], [1], sizes)
    turns = Turns([stream.share for stream in made], [0] * len(made))
    # Three epochs: 3 (30 / 8 + 10 / 4 + 5 / 2) = 26.25 batches.
    for _ in range(26):
        turns.next()
    seen = collections.Counter(
        stream.record(position, 0)
        for stream, count in zip(made, turns.counts, strict=True)
        for position in range(count * stream.batch)
    )
    assert sum(seen.values()) == sum(c * s.batch for c, s in zip(turns.counts, made, strict=True))
    for stream, count in zip(made, turns.counts, strict=True):
        epochs = count * stream.batch / len(stream.records)
        assert abs(epochs - 3) * len(stream.records) < 1.5 * stream.batch
        assert {seen[number] for number in stream.records} <= {int(epochs), int(epochs) + 1}


def test_weights_are_shares_of_batches():
    made = streams([("a", [(1, 4, 4)] * 9), ("b", [(2, 4, 4)])], [1, 3], {(1, 4, 4): 8, (2, 4, 4): 4})
    assert [(stream.name, stream.share) for stream in made] == [("a:1x4x4", 0.25), ("b:2x4x4", 0.75)]
    made = streams([("a", [(1, 4, 4)]), ("b", [(2, 4, 4)])], [0, 3], {(1, 4, 4): 8, (2, 4, 4): 4})
    assert [stream.name for stream in made] == ["b:2x4x4"]


@pytest.mark.parametrize("weights", [(0.0, 0.0), (1.0, -1.0), (float("inf"), 1.0)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(InputError, match=r"mixture weights .*: expected numbers from 0, at least one of them above 0"):
        streams([("a", [(1, 4, 4)]), ("b", [(1, 4, 4)])], weights, {(1, 4, 4): 8})


@pytest.mark.parametrize(
    ("form", "tokens", "multiple", "batch"),
    [((1, 32, 32), 1024, 1, 4), ((24, 60, 104), 1024, 1, 1), ((2, 4, 4), 100, 4, 12), ((2, 4, 4), 1, 4, 4)],
)
def test_batches_hold_about_as_many_tokens(form, tokens, multiple, batch):
    assert batch_size(form, (1, 2, 2), tokens, multiple) == batch


def test_tasks_are_drawn_by_their_shares():
    tasks = Tasks(t2v=2, i2v=1, vc=1, vc_latents=(2, 3, 9))
    assert tasks.choices(1) == {("t2i", 0): 1.0}
    assert tasks.choices(4) == {("t2v", 0): 0.5, ("i2v", 1): 0.25, ("vc", 2): 0.125, ("vc", 3): 0.125}
    found = collections.Counter(drawn(tasks.choices(4), u) for u in (np.arange(800) + 0.5) / 800)
    assert found == {("t2v", 0): 400, ("i2v", 1): 200, ("vc", 2): 100, ("vc", 3): 100}
    assert drawn(Tasks(t2v=0, i2v=1).choices(4), 0.0) == ("i2v", 1)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"t2v": 0}, "tasks t2v=0, i2v=0.0, vc=0.0: expected shares from 0, one above 0"),
        ({"i2v": -1}, "expected shares from 0"),
        ({"vc": 1, "vc_latents": ()}, r"vc_latents=\(\): expected numbers from 2"),
        ({"vc": 1, "vc_latents": (1,)}, r"vc_latents=\(1,\): expected numbers from 2; one frame is i2v"),
    ],
)
def test_tasks_that_are_none_are_refused(given, match):
    with pytest.raises(InputError, match=match):
        Tasks(**given)


def test_a_continuation_longer_than_the_videos_is_refused():
    with pytest.raises(InputError, match=r"vc_latents=\(4,\): all are as long as videos of 4 latent frames"):
        Tasks(vc=1).choices(4)
