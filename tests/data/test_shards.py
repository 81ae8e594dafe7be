"""A dataset holds what was written, wherever it lies, and what is missing, damaged or not closed is found."""

import dataclasses
import json
import os
import pathlib

import fsspec
import numpy as np
import pytest
from array_record.python import array_record_module as array_record

import caches
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.records import RecordError
from lcv_jax.data.shards import INDEX, Dataset, write_shard
from lcv_jax.data.storage import Folder
from lcv_jax.errors import InputError

FORMS = [(2, 4, 4), (1, 4, 6), (2, 4, 4), (3, 2, 4), (2, 4, 4)]


@pytest.fixture
def place(tmp_path) -> pathlib.Path:
    caches.dataset(tmp_path / "data", FORMS, per_shard=2)
    return tmp_path / "data"


def flip(path: pathlib.Path, sought: bytes) -> None:
    """Changes one bit of the record that holds these bytes."""
    data = bytearray(path.read_bytes())
    at = bytes(data).index(sought)
    data[at] ^= 1
    path.write_bytes(data)


@pytest.mark.smoke
def test_records_come_back_in_order(place):
    dataset = Dataset(place)
    assert len(dataset) == 5
    assert dataset.forms == tuple(FORMS)
    for number, form in enumerate(FORMS):
        assert dataset[number] == caches.record(number, form)
    assert dataset.prompts()[""].shape == (1, 8)
    with pytest.raises(IndexError, match="record 5: the dataset has 5"):
        dataset[5]


def test_an_object_store_is_fetched_once(tmp_path):
    """By fsspec's store in memory; gs:// and s3:// are the same calls with other packages."""
    caches.dataset("memory://bucket/data", FORMS)
    dataset = Dataset("memory://bucket/data", tmp_path)
    assert dataset[4] == caches.record(4, FORMS[4])
    fetched = tmp_path / "00000.arrayrecord"
    before = fetched.stat().st_mtime_ns
    assert Dataset("memory://bucket/data", tmp_path)[0] == caches.record(0, FORMS[0])
    assert fetched.stat().st_mtime_ns == before
    assert Dataset("memory://bucket/data").fingerprint == dataset.fingerprint
    store = fsspec.filesystem("memory")
    other = bytearray(store.cat_file("/bucket/data/00000.arrayrecord"))
    other[-1] ^= 1
    store.pipe_file("/bucket/data/00000.arrayrecord", bytes(other))
    with pytest.raises(InputError, match=r"bucket/data/00000.arrayrecord: differs from its checksum in the index"):
        Dataset("memory://bucket/data")


def test_a_store_without_its_package_is_refused():
    with pytest.raises(InputError, match="nowhere://a/b: cannot be opened"):
        Folder("nowhere://a/b")


def test_the_fingerprint_changes_with_the_content(place, tmp_path):
    other = caches.dataset(tmp_path / "other", FORMS[::-1], per_shard=2)
    assert Dataset(place).fingerprint != Dataset(other).fingerprint


def test_pairs_are_told_and_plain_datasets_look_as_before(place, tmp_path):
    index = json.loads((place / INDEX).read_text())
    assert "pairs" not in index["encoding"]
    assert Dataset(place).encoding == caches.ENCODING
    encoding = dataclasses.replace(caches.ENCODING, pairs=Pairs("spatial", 13))
    paired = caches.dataset(tmp_path / "pairs", FORMS, encoding=encoding)
    assert Dataset(paired).encoding == encoding
    assert Dataset(paired)[1] == caches.record(1, FORMS[1], encoding)
    index["encoding"]["pairs"] = {"mode": "spatial"}
    (place / INDEX).write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"index.json, encoding, pairs: expected cond_frames, mode, multiple, seed"):
        Dataset(place)


def test_a_damaged_record_is_found_and_the_others_are_not_lost(place):
    flip(place / "00001.arrayrecord", b"clip-3")
    dataset = Dataset(place)
    with pytest.raises(RecordError, match=r"00001.arrayrecord, record 1: damaged \(Corrupted"):
        dataset[3]
    assert dataset[2] == caches.record(2, FORMS[2])


def test_a_shard_that_was_not_closed_is_found(place):
    """It opens without an error, and has no records."""
    shard = place / "00001.arrayrecord"
    size = shard.stat().st_size
    writer = array_record.ArrayRecordWriter(str(shard), "group_size:1,uncompressed")
    writer.write(b"x")
    data = shard.read_bytes()
    shard.write_bytes(data + b"\0" * (size - len(data)))
    with pytest.raises(InputError, match=r"00001.arrayrecord: holds 0 records, expected 2 as in index.json"):
        Dataset(place)
    writer.close()


def test_a_shard_cut_short_or_missing_is_found(place):
    os.truncate(place / "00002.arrayrecord", 1000)
    with pytest.raises(InputError, match=r"00002.arrayrecord: has 1000 bytes, expected \d+ bytes; copy"):
        Dataset(place)
    (place / "00002.arrayrecord").unlink()
    with pytest.raises(InputError, match=r"00002.arrayrecord: is missing, expected"):
        Dataset(place)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda index: "{", "index.json: is not JSON"),
        (lambda index: json.dumps([]), "index.json: expected version, encoding, shards, prompts, source, found list"),
        (lambda index: json.dumps(index | {"version": 2}), "index.json: version 2, expected 1"),
        (lambda index: json.dumps(index | {"shards": []}), "data: the dataset is empty, expected at least one record"),
        (lambda index: json.dumps(index | {"encoding": {}}), "index.json, encoding: expected vae"),
        (lambda index: json.dumps(index | {"shards": [{"file": "a"}]}), "index.json, shards: expected file, bytes"),
        (
            lambda index: json.dumps(index | {"shards": [index["shards"][0] | {"forms": [[0, 1, 1]]}]}),
            "forms: expected three positive whole numbers",
        ),
    ],
)
def test_a_damaged_index_is_refused(place, change, match):
    index = json.loads((place / INDEX).read_text())
    (place / INDEX).write_text(change(index))
    with pytest.raises(InputError, match=match):
        Dataset(place)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"index.json: no such file: expected a folder that lcv_jax.data.cache has fin"
    ):
        Dataset(tmp_path)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        write_shard(Folder(tmp_path / "file" / "inside"), "0.arrayrecord", [])

    def failing():
        yield caches.record(0)
        raise InputError("no more")

    with pytest.raises(InputError, match="no more"):
        write_shard(Folder(tmp_path), "0.arrayrecord", failing())
    assert os.listdir(tmp_path) == ["file"]


def test_the_numbers_are_those_of_the_files(place):
    index = json.loads((place / INDEX).read_text())
    for shard in index["shards"]:
        assert (place / shard["file"]).stat().st_size == shard["bytes"]
    assert [form for shard in index["shards"] for form in shard["forms"]] == [list(form) for form in FORMS]
    np.testing.assert_array_equal(Dataset(place)[1].arrays["latents"].shape, (1, 4, 6, 16))
