"""Datasets on disk: shards of records in ArrayRecord files, and an index that says what must be there.

    index.json           what was encoded with what, and of each shard its records, bytes, checksum and shapes
    00000.arrayrecord    records (data/records.py), one group each, uncompressed: read at random in one seek
    00000.json           the shard's part of the index, written after it: an unfinished cache goes on behind it
    prompts.arrayrecord  encoded prompts that belong to no sample, such as the empty one

An ArrayRecord file that was not closed opens without an error and has no records, so a shard is written under another
name, closed, renamed, and compared with the index when it is opened.
"""

import dataclasses
import json
import os
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
VERSION = 1
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
    """One file as the index has it. forms: of each record, in order. skipped: what could not be encoded, and why."""

    file: str
    bytes: int
    crc32: int
    forms: tuple[Form, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Shard":
        _expect_keys(given, [field.name for field in dataclasses.fields(cls)], where)
        forms = tuple(tuple(form) for form in given["forms"])
        if not all(len(form) == 3 and all(type(n) is int and n > 0 for n in form) for form in forms):
            raise InputError(f"{where}: forms: expected three positive whole numbers each; write the cache again")
        return cls(given["file"], given["bytes"], given["crc32"], forms, tuple(map(tuple, given["skipped"])))


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
    aside, forms = folder.aside(file), []
    try:
        try:
            writer = array_record.ArrayRecordWriter(os.fspath(aside), _WRITE)
        except RuntimeError as error:
            raise InputError(f"{folder.name(file)}: cannot be written ({_first_line(error)})") from error
        for record in records:
            forms.append(tuple(np.shape(record.arrays[LATENTS])[:3]) if LATENTS in record.arrays else (1, 1, 1))
            _written(folder, file, writer.write, encode(record))
        _written(folder, file, writer.close)
        shard = Shard(file, aside.stat().st_size, crc32(aside), tuple(forms), tuple(skipped))
        folder.put(aside, file)
    finally:
        aside.unlink(missing_ok=True)
    return shard


class Reader:
    """Records of one shard by number, from any number of threads."""

    def __init__(self, folder: Folder, shard: Shard):
        self.name = folder.name(shard.file)
        path = folder.fetch(shard.file, shard.bytes, shard.crc32)
        try:
            self._file = array_record.ArrayRecordReader(os.fspath(path), _READ)
            count = self._file.num_records()
        except RuntimeError as error:
            raise InputError(f"{self.name}: cannot be read ({_first_line(error)}); copy the dataset again") from error
        if count != len(shard.forms):
            raise InputError(
                f"{self.name}: holds {count} records, expected {len(shard.forms)} as in {INDEX}: it was not closed or "
                "is damaged; copy it again, or remove it and its .json and continue the cache"
            )

    def __getitem__(self, number: int) -> Record:
        """Raises RecordError if it is damaged."""
        try:
            (data,) = self._file.read([number])
        except (RuntimeError, ValueError) as error:
            raise RecordError(f"{self.name}, record {number}: damaged ({_first_line(error)})") from error
        try:
            return decode(data)
        except RecordError as error:
            raise RecordError(f"{self.name}, record {number}: {error}") from error


@dataclasses.dataclass(frozen=True)
class Index:
    """The content of index.json."""

    encoding: Encoding
    shards: tuple[Shard, ...]
    prompts: Shard
    source: str

    def to_json(self) -> dict[str, Any]:
        return {"version": VERSION, **dataclasses.asdict(self), "encoding": self.encoding.to_json()}

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Index":
        """Raises InputError on anything that `to_json` does not write."""
        _expect_keys(given, ["version", *(field.name for field in dataclasses.fields(cls))], where)
        if given["version"] != VERSION:
            raise InputError(f"{where}: version {given['version']!r}, expected {VERSION}; write the cache again")
        encoding = Encoding.from_json(given["encoding"], f"{where}, encoding")
        shards = tuple(Shard.from_json(shard, f"{where}, shards") for shard in given["shards"])
        return cls(encoding, shards, Shard.from_json(given["prompts"], where), given["source"])


class Dataset:
    """A cached dataset, random access by number; records keep the order of the shards."""

    def __init__(self, place: os.PathLike[str] | str, fetched: os.PathLike[str] | str | None = None):
        """Reads the index, and compares every shard with it. Raises InputError on what is missing, not closed or empty.
        fetched: local folder for the shards of an object store."""
        self.folder = Folder(place, fetched)
        self.place = self.folder.place
        where, text = self.folder.name(INDEX), self.folder.read(INDEX)
        if text is None:
            raise InputError(f"{where}: no such file: expected a folder that lcv_jax.data.cache has finished writing")
        self.index = Index.from_json(read_json(text, where), where)
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


def fold(numbers: Iterable[int]) -> int:
    """One checksum of several."""
    return zlib.crc32(",".join(map(str, numbers)).encode())


def read_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InputError(f"{where}: is not JSON; write the cache again") from None


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
