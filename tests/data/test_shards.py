"""A dataset holds what was written, wherever it lies, and what is missing, damaged or not closed is found."""

import dataclasses
import json
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import fsspec
import numpy as np
import pytest
from array_record.python import array_record_module as array_record

import caches
from lcv_jax.data import shards
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.records import RecordError
from lcv_jax.data.shards import INDEX, Dataset, tell_origin, write_shard
from lcv_jax.data.storage import Folder, crc32
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


def test_a_shard_that_differs_from_its_checksum_is_not_read(place):
    """Neither its damaged record nor the others; other shards are."""
    flip(place / "00001.arrayrecord", b"clip-3")
    dataset = Dataset(place)
    for number in (2, 3):
        with pytest.raises(RecordError, match=r"data/00001.arrayrecord: differs from its checksum in index.json; copy"):
            dataset[number]
    assert dataset[1] == caches.record(1, FORMS[1])


def test_another_dataset_s_shard_of_the_same_size_is_not_read(place, tmp_path):
    """As when parts of two caches are copied together: it has as many bytes and records, and each of them is whole."""
    records = [caches.record(number, FORMS[number]) for number in (2, 3)]
    for record in records:
        record.arrays["latents"][...] += 1
    swapped = write_shard(Folder(place), "00001.arrayrecord", records)
    assert swapped.bytes == json.loads((place / INDEX).read_text())["shards"][1]["bytes"]
    with pytest.raises(RecordError, match="differs from its checksum"):
        Dataset(place)[2]


def test_checksums_are_compared_once(place, monkeypatch):
    """By whoever reads first, whatever the number of threads."""
    compared = []
    monkeypatch.setattr(shards, "crc32", lambda path: compared.append(path.name) or crc32(path))
    dataset = Dataset(place)
    assert not compared
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(dataset.__getitem__, [2, 3, 2, 3, 2, 3, 0]))
    assert sorted(compared) == ["00000.arrayrecord", "00001.arrayrecord"]


def test_a_record_damaged_since_is_found_and_the_others_are_not_lost(place):
    dataset = Dataset(place)
    assert dataset[2] == caches.record(2, FORMS[2])
    flip(place / "00001.arrayrecord", b"clip-3")
    with pytest.raises(RecordError, match=r"00001.arrayrecord, record 1: damaged \(Corrupted"):
        dataset[3]
    assert dataset[2] == caches.record(2, FORMS[2])


def test_the_index_is_a_manifest(place):
    """Keys of each shard's records, where they come from, and a checksum of all that."""
    tell_origin(place, {"selection": {"where": "blur > 100"}})
    index = Dataset(place).index
    assert [shard.keys for shard in index.shards] == [("clip-0", "clip-1"), ("clip-2", "clip-3"), ("clip-4",)]
    assert index.made_of == {"selection": {"where": "blur > 100"}}
    text = (place / INDEX).read_text()
    (place / INDEX).write_text(text.replace("blur > 100", "blur > 200"))
    with pytest.raises(InputError, match=r"data/index.json: differs from its own checksum; copy the dataset again"):
        Dataset(place)
    told = json.loads(text)
    told["shards"][0]["keys"] = ["clip-0"]
    (place / INDEX).write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"shards: 1 keys of 2 records; write the cache again"):
        Dataset(place)


def test_a_dataset_of_the_version_before_opens(place):
    """Without keys, origin and checksum of the index; shards are compared with theirs all the same."""
    index = json.loads((place / INDEX).read_text()) | {"version": 1}
    del index["made_of"], index["crc32"]
    for shard in (*index["shards"], index["prompts"]):
        del shard["keys"]
    (place / INDEX).write_text(json.dumps(index))
    dataset = Dataset(place)
    assert dataset[2] == caches.record(2, FORMS[2])
    assert (dataset.index.made_of, dataset.index.shards[0].keys) == ({}, ())
    flip(place / "00000.arrayrecord", b"clip-1")
    with pytest.raises(RecordError, match="differs from its checksum"):
        dataset[0]


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
        (
            lambda index: json.dumps([]),
            "index.json: expected version, encoding, shards, prompts, source, made_of, crc32, found",
        ),
        (lambda index: json.dumps(index | {"version": 3}), "index.json: version 3, expected 2"),
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


def test_an_empty_dataset_is_refused(tmp_path):
    with pytest.raises(InputError, match="data: the dataset is empty, expected at least one record"):
        Dataset(caches.dataset(tmp_path / "data", []))


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
