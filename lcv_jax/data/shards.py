"""Datasets on disk: shards of records in ArrayRecord files, and an index that says what must be there.

    index.json           the manifest: what was encoded with what, made of which selection, and of each shard its
                         records, bytes, checksum and shapes; and a checksum of the index itself
    00000.arrayrecord    records (data/records.py), one group each, uncompressed: read at random in one seek
    00000.json           the shard's part of the index, written after it: an unfinished cache goes on behind it
    prompts.arrayrecord  encoded prompts that belong to no sample, such as the empty one

An ArrayRecord file that was not closed opens without an error and has no records, so a shard is written under another
name, closed, renamed, and compared with the index when it is opened; its checksum before it is first read.
"""

import dataclasses
import json
import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from array_record.python import array_record_module as array_record

from lcv_jax.data.pairs import Pairs
from lcv_jax.data.records import Record, RecordError, decode, encode
from lcv_jax.data.storage import Folder, crc32
from lcv_jax.errors import InputError

INDEX = "index.json"
PROMPTS = "prompts.arrayrecord"
VERSION = 2
_WITHOUT_KEYS = 1
"""The version before: records have no keys in the index, which has no origin and no checksum."""
LATENTS, DEVIATIONS, TEXT = "latents", "deviations", "text."
"""Names of a sample's arrays: normalised means (T, h, w, C) of the autoencoder's posterior; its standard deviations in
the same units, if they were kept; and of each caption its states (L, D), as long as its tokens."""
UPSAMPLED, UPSAMPLED_DEVIATIONS = "upsampled", "upsampled deviations"
"""Of pairs also those of the clip that refinement starts from, of the same shape."""
_WRITE = "group_size:1,uncompressed"
_READ = "readahead_buffer_size:0,max_parallelism:0"

Form = tuple[int, int, int]
"""Latent frames, height and width of a sample: what a batch has in common."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file as the index has it. forms, keys: of each record, in order; no keys in datasets of version 1. skipped:
    what could not be encoded, and why."""

    file: str
    bytes: int
    crc32: int
    forms: tuple[Form, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    keys: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Shard":
        if isinstance(given, dict):
            given = {"keys": []} | given
        _expect_keys(given, [field.name for field in dataclasses.fields(cls)], where)
        forms = tuple(tuple(form) for form in given["forms"])
        if not all(len(form) == 3 and all(type(n) is int and n > 0 for n in form) for form in forms):
            raise InputError(f"{where}: forms: expected three positive whole numbers each; write the cache again")
        keys, skipped = tuple(given["keys"]), tuple(map(tuple, given["skipped"]))
        if len(keys) not in (0, len(forms)):
            raise InputError(f"{where}: {len(keys)} keys of {len(forms)} records; write the cache again")
        return cls(given["file"], given["bytes"], given["crc32"], forms, skipped, keys)


@dataclasses.dataclass(frozen=True)
class Encoding:
    """What samples were encoded with: a dataset is only of use to a model that belongs to it.

    vae, text_encoder: fingerprints of configs and weights. tokenizer: of its files. channels: of latents. text_width:
    of states. max_text_tokens: longer captions were cut. dtype: of arrays. posterior: "mode", or "sample" where
    deviations were kept. fps: frames a second of the videos. pairs: made for refinement; None for plain clips.
    """

    vae: str
    text_encoder: str
    tokenizer: str
    channels: int
    text_width: int
    max_text_tokens: int
    dtype: str
    posterior: str
    fps: int
    pairs: Pairs | None = None

    def to_json(self) -> dict[str, Any]:
        """Without `pairs` where there are none, as before they were thought of."""
        told = dataclasses.asdict(self)
        return told if self.pairs is not None else {name: told[name] for name in told if name != "pairs"}

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Encoding":
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(given, dict) or "pairs" not in given:
            names.remove("pairs")
        _expect_keys(given, names, where)
        pairs = {"pairs": Pairs.from_json(given["pairs"], f"{where}, pairs")} if "pairs" in given else {}
        return cls(**given | pairs)


def write_shard(folder: Folder, file: str, records: Iterable[Record], skipped: Sequence[tuple[str, str]] = ()) -> Shard:
    """Writes the records to folder/file, which then appears whole. `skipped` is read when the records have ended.

    Raises InputError when it cannot be written. A record without latents has no form: (1, 1, 1) stands for it.
    """
    aside, forms, keys = folder.aside(file), [], []
    try:
        try:
            writer = array_record.ArrayRecordWriter(os.fspath(aside), _WRITE)
        except RuntimeError as error:
            raise InputError(f"{folder.name(file)}: cannot be written ({_first_line(error)})") from error
        for record in records:
            forms.append(tuple(np.shape(record.arrays[LATENTS])[:3]) if LATENTS in record.arrays else (1, 1, 1))
            keys.append(record.key)
            _written(folder, file, writer.write, encode(record))
        _written(folder, file, writer.close)
        shard = Shard(file, aside.stat().st_size, crc32(aside), tuple(forms), tuple(skipped), tuple(keys))
        folder.put(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    return shard


class Reader:
    """Records of one shard by number, from any number of threads. The first to read one compares the shard with its
    checksum, while those that want the same shard wait."""

    def __init__(self, folder: Folder, shard: Shard):
        self.name = folder.name(shard.file)
        self._path, self._crc32 = folder.fetch(shard.file, shard.bytes, shard.crc32), shard.crc32
        self._lock, self._same = threading.Lock(), None
        try:
            self._file = array_record.ArrayRecordReader(os.fspath(self._path), _READ)
            count = self._file.num_records()
        except RuntimeError as error:
            raise InputError(f"{self.name}: cannot be read ({_first_line(error)}); copy the dataset again") from error
        if count != len(shard.forms):
            raise InputError(
                f"{self.name}: holds {count} records, expected {len(shard.forms)} as in {INDEX}: it was not closed or "
                "is damaged; copy it again, or remove it and its .json and continue the cache"
            )

    def __getitem__(self, number: int) -> Record:
        """Raises RecordError if it is damaged, or the shard differs from its checksum, and with it all its records."""
        if not self._as_written():
            raise RecordError(f"{self.name}: differs from its checksum in {INDEX}; copy it again")
        try:
            (data,) = self._file.read([number])
        except (RuntimeError, ValueError) as error:
            raise RecordError(f"{self.name}, record {number}: damaged ({_first_line(error)})") from error
        try:
            return decode(data)
        except RecordError as error:
            raise RecordError(f"{self.name}, record {number}: {error}") from error

    def _as_written(self) -> bool:
        if self._same is None:
            with self._lock:
                if self._same is None:
                    self._same = crc32(self._path) == self._crc32
        return self._same


@dataclasses.dataclass(frozen=True)
class Index:
    """The content of index.json. made_of: the selection that it is of, and where from, if that was told."""

    encoding: Encoding
    shards: tuple[Shard, ...]
    prompts: Shard
    source: str
    made_of: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        told = {"version": VERSION, **dataclasses.asdict(self), "encoding": self.encoding.to_json()}
        return told | {"crc32": _crc32_of(told)}

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Index":
        """Raises InputError on anything that `to_json` does not write."""
        if isinstance(given, dict) and given.get("version") == _WITHOUT_KEYS:
            given = {"made_of": {}} | given
            given |= {"crc32": _crc32_of(given)}
        _expect_keys(given, ["version", *(field.name for field in dataclasses.fields(cls)), "crc32"], where)
        if given["version"] not in (_WITHOUT_KEYS, VERSION):
            raise InputError(f"{where}: version {given['version']!r}, expected {VERSION}; write the cache again")
        encoding = Encoding.from_json(given["encoding"], f"{where}, encoding")
        shards = tuple(Shard.from_json(shard, f"{where}, shards") for shard in given["shards"])
        prompts = Shard.from_json(given["prompts"], where)
        if given["crc32"] != _crc32_of({name: given[name] for name in given if name != "crc32"}):
            raise InputError(f"{where}: differs from its own checksum; copy the dataset again")
        return cls(encoding, shards, prompts, given["source"], given["made_of"])


def read_index(folder: Folder) -> Index:
    """Raises InputError where there is none, or a damaged one."""
    where, text = folder.name(INDEX), folder.read(INDEX)
    if text is None:
        raise InputError(f"{where}: no such file: expected a folder that lcv_jax.data.cache has finished writing")
    return Index.from_json(read_json(text, where), where)


class Dataset:
    """A cached dataset, random access by number; records keep the order of the shards."""

    def __init__(self, place: os.PathLike[str] | str, fetched: os.PathLike[str] | str | None = None):
        """Reads the index, and compares every shard with it. Raises InputError on what is missing, not closed or empty.
        fetched: local folder for the shards of an object store."""
        self.folder = Folder(place, fetched)
        self.place = self.folder.place
        self.index = read_index(self.folder)
        self.encoding = self.index.encoding
        readers = [Reader(self.folder, shard) for shard in self.index.shards]
        self.forms: tuple[Form, ...] = tuple(form for shard in self.index.shards for form in shard.forms)
        if not self.forms:
            raise InputError(f"{self.place}: the dataset is empty, expected at least one record")
        self._readers = readers
        self._starts = np.cumsum([0, *(len(shard.forms) for shard in self.index.shards)])

    def __len__(self) -> int:
        return len(self.forms)

    def __getitem__(self, number: int) -> Record:
        """Raises RecordError if the record is damaged."""
        if not 0 <= number < len(self):
            raise IndexError(f"record {number}: the dataset has {len(self)}")
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self._readers[shard][number - int(self._starts[shard])]

    def prompts(self) -> Mapping[str, np.ndarray]:
        """States (L, D) of the prompts that belong to no sample, by their text."""
        reader = Reader(self.folder, self.index.prompts)
        records = (reader[i] for i in range(len(self.index.prompts.forms)))
        return {record.captions[record.key]: record.arrays[TEXT + record.key] for record in records}

    @property
    def fingerprint(self) -> str:
        """Changes with the dataset: of the checksums of all shards, in order."""
        return f"{len(self)}-{fold(shard.crc32 for shard in self.index.shards):08x}"


def tell_origin(place: os.PathLike[str] | str, made_of: Mapping[str, Any]) -> None:
    """Writes into a finished dataset's index what it was made of, of JSON's types."""
    folder = Folder(place)
    index = read_index(folder)
    folder.write(INDEX, json.dumps(dataclasses.replace(index, made_of=made_of).to_json(), ensure_ascii=False))


def fold(numbers: Iterable[int]) -> int:
    """One checksum of several."""
    return zlib.crc32(",".join(map(str, numbers)).encode())


def read_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: is not JSON; write the cache again") from None


def _crc32_of(told: Mapping[str, Any]) -> int:
    """Of a value of JSON's types, whatever the order of its keys."""
    return zlib.crc32(json.dumps(told, sort_keys=True).encode())


def _expect_keys(given: Any, names: Sequence[str], where: str) -> None:
    if not isinstance(given, dict) or set(given) != set(names):
        found = ", ".join(sorted(given)) if isinstance(given, dict) else type(given).__name__
        raise InputError(f"{where}: expected {', '.join(names)}, found {found}; write the cache again")


def _written(folder: Folder, file: str, function: Any, *arguments: Any) -> None:
    try:
        function(*arguments)
    except RuntimeError as error:
        raise InputError(f"{folder.name(file)}: cannot be written ({_first_line(error)}); make room") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
