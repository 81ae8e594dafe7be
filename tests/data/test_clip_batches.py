"""Batches of clips are a function of settings and position: over hosts, restarts and damage."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

from lcv_jax.data.clip_batches import ClipLoader, ClipSet, ClipSettings
from lcv_jax.data.images import write_png
from lcv_jax.data.sources import open_toy
from lcv_jax.data.toy import render, sample
from lcv_jax.data.video import read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

FACTORS = (4, 8)
PICTURES = ClipSet("toy:6", "32x32x1", batch=4)
CLIPS = ClipSet("toy:5", "40x32x5", window=(24, 16), batch=4, weight=3)


def loader(*sets: ClipSet, seed: int = 0, **kwargs) -> ClipLoader:
    options = {name: kwargs.pop(name) for name in ("rows",) if name in kwargs}
    return ClipLoader(ClipSettings(sets, seed, threads=2, ahead=2, **kwargs), FACTORS, **options)


@pytest.mark.smoke
def test_batches_are_of_one_set_in_their_shares():
    source = loader(PICTURES, CLIPS)
    batches = [next(source) for _ in range(8)]
    assert collections.Counter(batch.frames.shape for batch in batches) == {(4, 1, 32, 32, 3): 2, (4, 5, 24, 16, 3): 6}
    assert {(batch.frames.dtype, batch.size, batch.damaged) for batch in batches} == {(np.dtype(np.uint8), 4, ())}


def test_it_goes_on_where_its_consumer_stood():
    source, states, batches = loader(PICTURES, CLIPS), [], []
    for _ in range(7):
        states.append(json.loads(json.dumps(source.get_state())))
        batches.append(next(source))
    for start in (0, 1, 4, 6):
        other = loader(PICTURES, CLIPS)
        other.set_state(states[start])
        for batch in batches[start:]:
            again = next(other)
            np.testing.assert_array_equal(again.frames, batch.frames)
            assert again.after == batch.after
    assert not np.array_equal(next(loader(PICTURES, seed=1)).frames, next(loader(PICTURES)).frames)


def test_after_some_epochs_every_clip_was_seen_as_often():
    """Three batches of four are two epochs of six clips."""
    known = [open_toy("toy:6", ("32x32x1",), 0, "train", (1, 2, 3))[number].frames for number in range(6)]
    source, seen = loader(PICTURES), collections.Counter()
    orders = []
    for frames in itertools.chain.from_iterable(next(source).frames for _ in range(3)):
        (number,) = (number for number, one in enumerate(known) if np.array_equal(one, frames))
        seen[number] += 1
        orders.append(number)
    assert seen == dict.fromkeys(range(6), 2)
    assert set(orders[:6]) == set(range(6))


def test_windows_lie_inside_at_random_places():
    """Each window is a piece of its clip, and over many of them every edge is reached."""
    clips = open_toy("toy:5", ("40x32x5",), 0, "train", (1, 2, 3))
    source, places = loader(dataclasses.replace(CLIPS, batch=32)), []
    (stream,) = source.streams
    for at, window in enumerate(itertools.chain.from_iterable(next(source).frames for _ in range(4))):
        clip = clips[stream.record(at, 0)].frames
        found = [
            (y, x)
            for y in range(40 - 24 + 1)
            for x in range(32 - 16 + 1)
            if np.array_equal(clip[:, y : y + 24, x : x + 16], window)
        ]
        assert found
        places += found if len(found) == 1 else []  # plain grounds have equal windows
    ys, xs = zip(*places, strict=True)
    assert (min(ys), max(ys), min(xs), max(xs)) == (0, 16, 0, 16)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_rows_are_those_of_the_whole(hosts):
    share, alone = 4 // hosts, loader(PICTURES, CLIPS)
    parts = [loader(PICTURES, CLIPS, rows=lambda _, h=h: range(h * share, (h + 1) * share)) for h in range(hosts)]
    for _ in range(3):
        each, whole = [next(part) for part in parts], next(alone)
        np.testing.assert_array_equal(np.concatenate([part.frames for part in each]), whole.frames)
        assert {part.size for part in each} == {4}
        assert {json.dumps(dict(part.after)) for part in each} == {json.dumps(dict(whole.after))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two clips, one that is too short, a picture, and a file that is no video; none has a caption."""
    place = tmp_path_factory.mktemp("clips")
    clips = [render(sample(n), n, (32, 32), 9)[0] for n in range(3)]
    write_video(place / "a.mp4", clips[0][:5], 15)
    write_video(place / "b.mp4", clips[1][:7], 15)
    write_video(place / "short.mp4", clips[2][:3], 15)
    write_png(place / "d.png", clips[2][0])
    (place / "broken.mp4").write_bytes(b"nothing")
    return place


def test_clips_that_cannot_be_used_are_replaced_told_and_counted(folder, caplog):
    """Of five files two can be used; five batches of three are three epochs."""
    one = ClipSet(str(folder), "32x32x5", batch=3)
    source, known = loader(one), [read_video(folder / name).frames[:5] for name in ("a.mp4", "b.mp4")]
    batches = [next(source) for _ in range(5)]
    for frames in itertools.chain.from_iterable(batch.frames for batch in batches):
        assert any(np.array_equal(frames, clip) for clip in known)
    told = "; ".join(itertools.chain.from_iterable(batch.damaged for batch in batches))
    assert "short.mp4: has 3 frames at 15 a second, fewer than (5,)" in told
    assert "d.png: is (1, 32, 32) frames, height, width, expected (5, 32, 32)" in told
    assert "broken.mp4" in told
    # Three epochs meet each of the three at least once; what stands for one may be another of them.
    assert source.damaged == sum(len(batch.damaged) for batch in batches) >= 9
    assert sum("another of the clips stands for it" in record.message for record in caplog.records) == source.damaged
    again = loader(one)
    again.set_state(json.loads(json.dumps(source.get_state())))
    assert again.damaged == source.damaged
    np.testing.assert_array_equal(next(again).frames, next(source).frames)


def test_too_much_damage_ends_the_run(folder):
    source = loader(ClipSet(str(folder), "32x32x5", batch=3), max_damaged=2)
    with pytest.raises(InputError, match=r"\d damaged clips so far, more than max_damaged=2; the last: .*"):
        collections.deque(map(next, [source] * 9), maxlen=0)


def test_a_set_without_one_good_clip_ends_the_run(folder):
    source = loader(ClipSet(str(folder), "32x32x9", batch=1))
    with pytest.raises(InputError, match="5 clips were tried for one and are damaged, the last: "):
        next(source)


def test_pictures_of_a_folder_are_its_first_frames(folder):
    source = loader(ClipSet(str(folder), "40x32x1", batch=5))
    batch = next(source)
    assert batch.frames.shape == (5, 1, 40, 32, 3)
    assert all("broken.mp4" in name for name in batch.damaged)


def test_a_position_in_other_clips_is_refused(folder, tmp_path):
    state = loader(PICTURES).get_state()
    with pytest.raises(InputError, match=r"position is in other clips: \[6\] of each set then, \[7\] now"):
        loader(dataclasses.replace(PICTURES, source="toy:7")).set_state(state)
    with pytest.raises(InputError, match="position is in other clips: None of each set then"):
        loader(PICTURES).set_state({"position": 3})
    for name in "ab":
        write_png(tmp_path / f"{name}.png", np.zeros((32, 32, 3), np.uint8))
    one = ClipSet(str(tmp_path), "32x32x1", batch=1)
    state = loader(one).get_state()
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    with pytest.raises(InputError, match=r"in other clips: \['2 files \w{8}'\] of each set then, \['2"):
        loader(one).set_state(state)


@pytest.mark.parametrize(
    ("sets", "match"),
    [
        ((), "data.sets: none given, expected at least one set of clips"),
        ((dataclasses.replace(PICTURES, form="32x32x4"),), r"data.sets.0: clips of 4 frames, 32x32: expected 4n \+ 1"),
        ((PICTURES, dataclasses.replace(PICTURES, form="36x32x1")), "data.sets.1: clips of 1 frames, 36x32"),
        (
            (dataclasses.replace(PICTURES, form="32x32x0"),),
            "data.sets.0, form=.32x32x0.: frames=0: expected at least 1",
        ),
        ((dataclasses.replace(PICTURES, form="32x32"),), "'32x32': expected HEIGHTxWIDTHxFRAMES"),
        ((dataclasses.replace(PICTURES, form="32x32x1@2"),), "alone; a set's share is its weight"),
        ((dataclasses.replace(CLIPS, window=(0, 8)),), "clips of 5 frames, 0x8: expected"),
        ((dataclasses.replace(CLIPS, window=(-8, 8)),), "clips of 5 frames, -8x8: expected"),
        ((dataclasses.replace(CLIPS, window=(12, 8)),), "sides that divide by 8"),
        ((dataclasses.replace(CLIPS, window=(8,)),), r"window=\(8,\): expected a height and a width"),
        ((dataclasses.replace(CLIPS, window=(48, 8)),), r"window=\(48, 8\) is larger than the clips, 40x32"),
        ((dataclasses.replace(PICTURES, batch=0),), "batch=0, weight=1.0: expected at least 1"),
        ((dataclasses.replace(PICTURES, weight=0),), "batch=4, weight=0: .* a positive number"),
        ((dataclasses.replace(PICTURES, weight=float("nan")),), "weight=nan"),
        ((dataclasses.replace(PICTURES, source="toy:0"),), "toy:0: expected at least one clip"),
        ((dataclasses.replace(PICTURES, source="toy:many"),), "expected toy:COUNT"),
        ((dataclasses.replace(PICTURES, source="nowhere"),), "nowhere: no such folder or list"),
    ],
)
def test_bad_sets_are_refused(sets, match):
    with pytest.raises(InputError, match=match):
        loader(*sets)
