"""The library: what the stages found, in a folder of Parquet files that only ever grows.

    ingest-1f0c2d3e/00000.parquet            rows of a stage, which has a folder for each version and setting
    ingest-1f0c2d3e/00000.outcomes.parquet   what became of the items of that part; written behind it, so that a part
                                             without one never was
    ingest-1f0c2d3e/stage.json               the settings that the folder's name stands for
    clips-77ab01cd/files/3f/3fa9...mp4       what a stage wrote besides

An item is done when its outcome is there. Who is killed loses the items since the last part, and does those again.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lcv_jax.data.files import replacing, unwritable
from lcv_jax.errors import InputError

ABOUT = "stage.json"
HELD = ".held"
OUTCOMES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # done, rejected, failed
        pa.field("reason", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
    ]
)
_ROWS, _TOLD = ".parquet", ".outcomes.parquet"


@dataclasses.dataclass(frozen=True)
class Table:
    """A stage's folder. key: stage and settings, "shots-1f0c2d3e"."""

    folder: pathlib.Path
    schema: pa.Schema

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def files(self) -> pathlib.Path:
        """Where the stage's workers write files."""
        return self.folder / "files"

    def parts(self) -> list[pathlib.Path]:
        """Finished parts, in the order of their writing: the names of their rows."""
        told = sorted(self.folder.glob(f"*{_TOLD}"))
        return [path.with_name(path.name.removesuffix(_TOLD) + _ROWS) for path in told]

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of items that are done. Of an item that was tried again, those of the last time."""
        wanted = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        read = [_read(path, wanted) for path in self.parts()]
        return pa.concat_tables(read) if read else wanted.empty_table()

    def outcomes(self) -> pa.Table:
        """One row for each item: its newest."""
        read = [_read(path.with_name(path.stem + _TOLD), OUTCOMES) for path in self.parts()]
        if not read:
            return OUTCOMES.empty_table()
        table = pa.concat_tables(read)
        newest = {name: row for row, name in enumerate(table.column("id").to_pylist())}
        return table.take(sorted(newest.values()))

    def sweep(self) -> None:
        """Removes what a run that was killed had begun to write. Only for who holds the library (`held`)."""
        for path in self.folder.glob(".*.part"):
            path.unlink(missing_ok=True)

    def write(self, rows: Iterable[Mapping[str, Any]], outcomes: Iterable[Mapping[str, Any]]) -> None:
        """Adds a part."""
        numbers = [int(path.stem) for path in self.parts()]
        name = f"{max(numbers, default=-1) + 1:05d}"
        for schema, suffix, found in ((self.schema, _ROWS, rows), (OUTCOMES, _TOLD, outcomes)):
            table = _table(found, schema, self.key)
            with replacing(self.folder / f"{name}{suffix}") as aside:
                pq.write_table(table, aside, compression="zstd")


@dataclasses.dataclass(frozen=True)
class Library:
    """The folder. tables: of the stages of one run, by name. known: other libraries, whose files count as here."""

    root: pathlib.Path
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    known: tuple[str, ...] = ()

    def table(self, name: str) -> Table:
        if name not in self.tables:
            raise InputError(f"{self.root}: stage {name} has not been run with these settings; run it first")
        return self.tables[name]

    def with_stage(self, name: str, schema: pa.Schema, about: Mapping[str, Any], after: Sequence[str]) -> "Library":
        """With the folder of a stage, made if it is missing. about: what decides its rows. after: stages before it."""
        told, table = self._stage(name, schema, about, after)
        if not (table.folder / ABOUT).is_file():
            with replacing(table.folder / ABOUT) as aside:
                aside.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", "utf-8")
        return dataclasses.replace(self, tables={**self.tables, name: table})

    def with_stage_if_run(
        self, name: str, schema: pa.Schema, about: Mapping[str, Any], after: Sequence[str]
    ) -> "Library":
        """With the folder of a stage if there is one for this."""
        if not self.tables.keys() >= set(after):
            return self
        _, table = self._stage(name, schema, about, after)
        there = (table.folder / ABOUT).is_file()
        return dataclasses.replace(self, tables={**self.tables, name: table}) if there else self

    def _stage(
        self, name: str, schema: pa.Schema, about: Mapping[str, Any], after: Sequence[str]
    ) -> tuple[Mapping[str, Any], Table]:
        told = {**about, "after": [self.table(before).key for before in after]}
        text = json.dumps(told, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(f"{schema}{text}".encode()).hexdigest()[:8]
        return told, Table(self.root / f"{name}-{key}", schema)

    def opened(self, keys: Mapping[str, str], schemas: Mapping[str, pa.Schema]) -> "Library":
        """With the folders of a run's stages, by name, as they are."""
        tables = {name: Table(self.root / key, schemas[name]) for name, key in keys.items()}
        return dataclasses.replace(self, tables=tables)


@contextlib.contextmanager
def held(root: pathlib.Path) -> Iterator[None]:
    """For one run at a time. The system lets go of a library whose run was killed. Raises InputError if another one
    has it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / HELD).open("w")
    except OSError as error:
        raise unwritable(root, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{root}: another run works on this library; wait for it, or stop it") from error
        yield


def write_table(path: pathlib.Path, table: pa.Table) -> None:
    """A Parquet file, whole or not at all."""
    with replacing(path) as aside:
        pq.write_table(table, aside, compression="zstd")


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as dictionaries, some at a time, so that memory does not grow with the table's length."""
    for batch in table.to_batches(max_chunksize=1024):
        yield from batch.to_pylist()


def _table(rows: Iterable[Mapping[str, Any]], schema: pa.Schema, where: str) -> pa.Table:
    rows = list(rows)
    names = set(schema.names)
    for row in rows:
        if row.keys() != names:
            raise ValueError(f"{where}: a row has fields {sorted(row)}, expected {sorted(names)}")
    return pa.Table.from_pylist(rows, schema)


def _read(path: pathlib.Path, schema: pa.Schema) -> pa.Table:
    try:
        return pq.read_table(path, columns=schema.names, schema=schema)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}); remove it to have its items done again") from error
