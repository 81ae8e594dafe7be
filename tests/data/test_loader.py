"""Batches are a function of settings and position: over hosts, restarts and damaged records."""

import collections
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

import caches
from benchmarks import loader as benchmark
from lcv_jax.data.batching import Tasks
from lcv_jax.data.loader import Loader, Reads, Settings
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.shards import Dataset
from lcv_jax.errors import InputError

FORMS = [(2, 4, 4), (1, 4, 4), (3, 4, 4), (1, 4, 4), (3, 4, 4), (2, 4, 4), (3, 4, 4), (1, 4, 4), (3, 4, 4)]
SETTINGS = Settings(tokens=24, multiple=2, text_tokens=6, seed=1)
PROGRAM = pathlib.Path(__file__).with_name("loading.py")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> str:
    return caches.dataset(tmp_path_factory.mktemp("data"), FORMS)


def loader(place: str, settings: Settings = SETTINGS, **kwargs) -> Loader:
    return Loader([Dataset(place)], [1], settings, **kwargs)


def numbers(batch) -> list[int]:
    """Of the records in a batch: their latents begin with them."""
    return [int(latents.flat[0]) for latents in batch.latents]


def same(one, two) -> bool:
    arrays = ("latents", "states", "mask")
    rest = ("num_cond", "task", "stream", "after")
    return all(np.array_equal(getattr(one, n), getattr(two, n)) for n in arrays) and all(
        getattr(one, n) == getattr(two, n) for n in rest
    )


@pytest.mark.smoke
def test_batches_are_of_one_form_and_nothing_is_padded(place):
    source = loader(place)
    assert {stream.form: stream.batch for stream in source.streams} == {(1, 4, 4): 6, (2, 4, 4): 2, (3, 4, 4): 2}
    for _ in range(12):
        batch = next(source)
        assert batch.latents.dtype == np.float32
        assert batch.latents.shape == (batch.size, *FORMS[numbers(batch)[0]], 16)
        for row, number in enumerate(numbers(batch)):
            record = caches.record(number, FORMS[number])
            np.testing.assert_array_equal(batch.latents[row], record.arrays["latents"].astype(np.float32))
            length = 1 + number % 4
            assert batch.mask[row].tolist() == [True] * length + [False] * (6 - length)
            assert set(np.unique(batch.states[row, :length].astype(int))) <= {1, 2}
            assert not batch.states[row, length:].any()


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_after_some_epochs_every_record_was_seen_as_often(place, hosts):
    """Hosts' rows are disjoint, complete, and those that one host has; in the middle of an epoch their number changes.
    Four epochs: 4 (3/4 + 2/4 + 4/4) = 9 batches."""
    settings = dataclasses.replace(SETTINGS, multiple=4)

    def parts(count: int) -> list[Loader]:
        share = 4 // count
        return [loader(place, settings, rows=lambda _, h=h: range(h * share, (h + 1) * share)) for h in range(count)]

    sources, alone = parts(hosts), loader(place, settings)
    seen = collections.Counter()
    for number in range(9):
        if number == 5:
            state = json.loads(json.dumps(sources[-1].get_state()))
            sources = parts(4 // hosts)
            for source in sources:
                source.set_state(state)
        each, whole = [next(source) for source in sources], next(alone)
        np.testing.assert_array_equal(np.concatenate([part.latents for part in each]), whole.latents)
        assert {json.dumps(dict(part.after)) for part in each} == {json.dumps(dict(whole.after))}
        seen.update(numbers(whole))
    assert seen == dict.fromkeys(range(9), 4)


def test_it_goes_on_where_its_consumer_stood(place):
    settings = dataclasses.replace(SETTINGS, tasks=Tasks(i2v=1), posterior="sample")
    source, states, batches = loader(place, settings), [], []
    for _ in range(9):
        states.append(json.loads(json.dumps(source.get_state())))
        batches.append(next(source))
    for start in (0, 1, 4, 8):
        other = loader(place, settings, threads=1, ahead=1)
        other.set_state(states[start])
        assert all(same(next(other), batch) for batch in batches[start:])
    assert len({batch.task for batch in batches}) == 3


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_last_bit(tmp_path):
    """With real processes, one of which dies in the middle of an epoch."""
    place = caches.dataset(tmp_path / "data", [(3, 4, 4)] * 5 + [(1, 4, 4)] * 3)
    root = PROGRAM.parents[2]
    paths = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "tests")))}

    def run(state, count, *kill):
        command = [sys.executable, str(PROGRAM), place, str(tmp_path / state), str(count), *map(str, kill)]
        return subprocess.run(command, capture_output=True, text=True, env=paths, cwd=root)

    whole = run("whole.json", 10).stdout.splitlines()
    killed = run("parts.json", 10, 4)
    assert killed.returncode == -9
    assert len(whole) == 10
    assert killed.stdout.splitlines() + run("parts.json", 6).stdout.splitlines() == whole


def test_mixtures_have_their_weights(place, tmp_path):
    other = caches.dataset(tmp_path / "other", [(2, 4, 4)] * 3)
    source = Loader([Dataset(place), Dataset(other)], [1, 3], SETTINGS)
    taken = collections.Counter(next(source).stream[0] for _ in range(24))
    assert taken == {"0": 6, "1": 18}


def test_captions_are_taken_by_their_weights(place):
    def languages(captions):
        source = loader(place, dataclasses.replace(SETTINGS, captions=captions))
        return collections.Counter(int(states[0, 0]) for _ in range(20) for states in next(source).states)

    assert set(languages((("zh", 1.0),))) == {2}
    both = languages(())
    assert 0.3 < both[1] / sum(both.values()) < 0.7
    assert set(languages((("fr", 1.0),))) == {0}  # none of them: the empty prompt


def test_the_posterior_is_sampled_by_position(place):
    mode, drawn = loader(place), loader(place, dataclasses.replace(SETTINGS, posterior="sample"))
    differences = [next(drawn).latents - next(mode).latents for _ in range(6)]
    spread = np.concatenate([d.ravel() for d in differences])
    assert abs(spread.std() - 0.5) < 0.03
    assert abs(spread.mean()) < 0.03


PAIRS = Pairs("spatial", cond_frames=1, multiple=1)


@pytest.fixture(scope="module")
def paired(tmp_path_factory) -> str:
    encoding = dataclasses.replace(caches.ENCODING, pairs=PAIRS)
    return caches.dataset(tmp_path_factory.mktemp("pairs"), [(3, 4, 4)] * 4, encoding=encoding)


def test_pairs_come_with_what_refinement_starts_from(paired):
    """And with the frames given that they were made for, whatever tasks are asked for."""
    settings = dataclasses.replace(SETTINGS, tasks=Tasks(vc=1))
    source = loader(paired, settings, reads=Reads.PAIRS)
    assert [choice[1:] for choice in source.batches()] == [("i2v", 1)]
    batch = next(source)
    assert (batch.task, batch.num_cond, batch.upsampled.dtype) == ("i2v", 1, np.float32)
    np.testing.assert_array_equal(batch.upsampled, -batch.latents)
    sampled = next(loader(paired, dataclasses.replace(settings, posterior="sample"), reads=Reads.PAIRS))
    for drawn, mean, spread in ((sampled.latents, batch.latents, 0.5), (sampled.upsampled, batch.upsampled, 0.25)):
        assert (drawn - mean).std() == pytest.approx(spread, rel=0.1)


def test_pairs_can_be_read_as_plain_clips(paired):
    """With tasks and noise as if there were none."""
    settings = dataclasses.replace(SETTINGS, posterior="sample")
    batch = next(loader(paired, settings))
    assert (batch.task, batch.num_cond, batch.upsampled) == ("t2v", 0, None)
    np.testing.assert_array_equal(batch.latents, next(loader(paired, settings, reads=Reads.PAIRS)).latents)


def test_clips_without_pairs_and_positions_of_other_readings_are_refused(place, paired):
    with pytest.raises(InputError, match=r"holds no pairs, which refinement learns from: write the cache with --pairs"):
        loader(place, reads=Reads.PAIRS)
    state = loader(paired, reads=Reads.PAIRS).get_state()
    with pytest.raises(InputError, match="position is in other data: reads was pairs, is None"):
        loader(paired).set_state(state)


@pytest.fixture
def damaged(tmp_path) -> str:
    """Record 4 of nine is damaged, in a shard of its own."""
    place = caches.dataset(tmp_path / "data", [(2, 4, 4)] * 9, per_shard=1)
    shard = tmp_path / "data" / "00004.arrayrecord"
    data = bytearray(shard.read_bytes())
    data[bytes(data).index(b"clip-4")] ^= 1
    shard.write_bytes(data)
    return place


def test_damaged_records_are_replaced_counted_and_told(damaged, caplog):
    source = loader(damaged)
    seen = [number for _ in range(9) for number in numbers(next(source))]  # 18 records: two epochs
    assert 4 not in seen
    assert len(seen) == 18
    assert source.damaged == 2
    assert source.get_state()["damaged"] == 2
    (first, _) = [r.message for r in caplog.records if "checksum" in r.message]
    assert "00004.arrayrecord: differs from its checksum in index.json" in first
    assert "another of the records stands for it" in first
    again = loader(damaged)
    again.set_state(source.get_state())
    assert again.damaged == 2


def test_too_many_damaged_records_end_the_run(damaged):
    source = loader(damaged, dataclasses.replace(SETTINGS, max_damaged=1))
    with pytest.raises(InputError, match=r"2 damaged records so far, more than max_damaged=1; the last: .*00004"):
        collections.deque(map(next, [source] * 9), maxlen=0)


def test_a_stream_of_damaged_records_ends_the_run(tmp_path):
    place = caches.dataset(tmp_path / "data", [(2, 4, 4)])
    shard = tmp_path / "data" / "00000.arrayrecord"
    shard.write_bytes(shard.read_bytes().replace(b"clip-0", b"clip-1"))
    source = loader(place)
    with pytest.raises(InputError, match=r"1 records were tried for one and are damaged, the last: .*00000"):
        next(source)


def test_a_position_in_other_data_is_refused(place, tmp_path):
    state = loader(place).get_state()
    other = loader(caches.dataset(tmp_path / "other", FORMS[::-1]))
    with pytest.raises(InputError, match="position is in other data: datasets was "):
        other.set_state(state)
    with pytest.raises(InputError, match="position is in other data: seed was 1, is 2"):
        loader(place, dataclasses.replace(SETTINGS, seed=2)).set_state(state)
    with pytest.raises(InputError, match=r"keys \['at'\]: it is of another kind of source"):
        loader(place).set_state({"at": 3})
    loader(place, dataclasses.replace(SETTINGS, max_damaged=2)).set_state(state)


def test_datasets_that_do_not_belong_together_are_refused(place, tmp_path):
    other = dataclasses.replace(caches.ENCODING, vae="another")
    two = [Dataset(place), Dataset(caches.dataset(tmp_path / "vae", FORMS, encoding=other))]
    with pytest.raises(
        InputError, match=r"vae is another, but a in .*: expected datasets that were encoded with the same"
    ):
        Loader(two, [1, 1], SETTINGS)
    other = dataclasses.replace(caches.ENCODING, posterior="mode")
    narrow = [Dataset(caches.dataset(tmp_path / "mode", FORMS, encoding=other))]
    with pytest.raises(InputError, match="holds no deviations, which posterior='sample' needs"):
        Loader(narrow, [1], dataclasses.replace(SETTINGS, posterior="sample"))
    with pytest.raises(InputError, match="no datasets given"):
        Loader([], [], SETTINGS)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"tokens": 0}, "data, tokens=0: expected at least 1"),
        ({"tokens": 1, "posterior": "mean"}, "posterior='mean': expected 'mode' or 'sample'"),
        ({"tokens": 1, "seed": -1}, "seed=-1"),
        ({"tokens": 1, "captions": (("en", -1.0),)}, "expected weights from 0"),
    ],
)
def test_bad_settings_are_refused(given, match):
    with pytest.raises(InputError, match=match):
        Settings(**given)


def test_the_benchmark_measures():
    row = benchmark.measure("256p", records=3, batches=2, threads=2)
    assert row.ratio > 0
    assert row.minimum > 0
    assert row.figures["MB_a_record"] > 1
