"""Parquet files that only ever grow, and runs that are killed while they write."""

import pyarrow as pa
import pytest

from lcv_jax.data.curation import records
from lcv_jax.data.curation.library import ABOUT, Library, held, rows_of, write_table
from lcv_jax.errors import InputError

SCHEMA = pa.schema([("id", pa.string()), ("value", pa.int64())])


def stage(root, about=None, name="a", after=(), library=None):
    return (library or Library(root)).with_stage(name, SCHEMA, about or {}, after)


def outcome(name, status="done", rows=1):
    return {"id": name, "status": status, "reason": "", "attempts": 1, "seconds": 0.5, "rows": rows}


def test_parts_add_up_and_the_newest_outcome_counts(tmp_path):
    table = stage(tmp_path).table("a")
    assert (len(table.rows()), len(table.outcomes())) == (0, 0)
    table.write([{"id": "x", "value": 1}], [outcome("x"), outcome("y", "failed", 0)])
    table.write([{"id": "y", "value": 2}, {"id": "y", "value": 3}], [outcome("y", rows=2)])
    assert table.rows().to_pylist() == [{"id": "x", "value": 1}, {"id": "y", "value": 2}, {"id": "y", "value": 3}]
    assert table.rows(["value"]).schema.names == ["value"]
    assert [(row["id"], row["status"]) for row in table.outcomes().to_pylist()] == [("x", "done"), ("y", "done")]
    assert [row["value"] for row in rows_of(table.rows())] == [1, 2, 3]


def test_rows_without_their_outcomes_never_were(tmp_path):
    """What is left by who was killed between the two, or while writing either."""
    table = stage(tmp_path).table("a")
    table.write([{"id": "x", "value": 1}], [outcome("x")])
    write_table(table.folder / "00001.parquet", pa.Table.from_pylist([{"id": "y", "value": 9}], SCHEMA))
    (table.folder / ".00001.outcomes.parquet.123.part").write_bytes(b"PAR1")
    assert table.rows().column("value").to_pylist() == [1]
    table.sweep()
    table.write([{"id": "z", "value": 2}], [outcome("z")])
    assert table.rows().column("value").to_pylist() == [1, 2]
    assert sorted(path.name for path in table.folder.iterdir()) == [
        "00000.outcomes.parquet",
        "00000.parquet",
        "00001.outcomes.parquet",
        "00001.parquet",
        ABOUT,
    ]


def test_settings_of_a_stage_and_of_those_before_make_its_folder(tmp_path):
    def key(first, second):
        library = stage(tmp_path, first)
        return stage(tmp_path, second, "b", ("a",), library).table("b").key

    same = key({"x": 1}, {"y": 2})
    assert key({"x": 1}, {"y": 2}) == same
    assert len({same, key({"x": 2}, {"y": 2}), key({"x": 1}, {"y": 3})}) == 3
    with pytest.raises(InputError, match="stage a has not been run with these settings; run it first"):
        Library(tmp_path).with_stage("b", SCHEMA, {}, ("a",))


def test_a_stage_that_has_not_been_run_is_not_there(tmp_path):
    library = Library(tmp_path).with_stage_if_run("a", SCHEMA, {}, ())
    assert not library.tables
    stage(tmp_path)
    library = library.with_stage_if_run("a", SCHEMA, {}, ())
    assert list(library.tables) == ["a"]
    assert list(library.with_stage_if_run("c", SCHEMA, {}, ("b",)).tables) == ["a"]


def test_one_run_at_a_time(tmp_path):
    both = pytest.raises(InputError, match=r"new: another run works on this library")
    with held(tmp_path / "new"), both, held(tmp_path / "new"):
        pass
    with held(tmp_path / "new"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), held(tmp_path / "file"):
        pass


def test_damage_is_told(tmp_path):
    table = stage(tmp_path).table("a")
    table.write([{"id": "x", "value": 1}], [outcome("x")])
    (table.folder / "00000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"00000.parquet: cannot be read .* to have its items done again"):
        table.rows()
    with pytest.raises(ValueError, match="a row has fields"):
        table.write([{"id": "x"}], [])


def test_the_record_of_clips_joins_what_stages_found(tmp_path):
    """A clip that a stage has not seen has nulls there."""
    library = Library(tmp_path)
    for name, fields in (("ingest", {"source_id": "s", "license": "CC0"}), ("shots", {"source_id": "s"})):
        schema = records.PARTS[name]
        library = library.with_stage(name, schema, {}, ())
        rows = [dict.fromkeys(schema.names) | fields]
        if name == "shots":
            rows = [rows[0] | {"clip_id": clip, "crop": [0, 0, 4, 2]} for clip in ("d", "c")]
        library.table(name).write(rows, [outcome("s", rows=len(rows))])
    library = library.with_stage("annotate", records.SCORES, {}, ())
    library.table("annotate").write([dict.fromkeys(records.SCORES.names) | {"clip_id": "c", "blur": 5.0}], [])
    found = records.clip_records(library)
    assert found.schema.equals(records.clip_schema(), check_metadata=True)
    assert found.column("clip_id").to_pylist() == ["c", "d"]
    assert found.column("license").to_pylist() == ["CC0", "CC0"]
    assert found.column("blur").to_pylist() == [5.0, None]
    assert found.column("crop").to_pylist() == [[0, 0, 4, 2]] * 2
    records.check_version(found.schema, "x")
    with pytest.raises(InputError, match="x: has no version of the clip record, expected 1"):
        records.check_version(SCHEMA, "x")
    with pytest.raises(InputError, match="x: has version 7 of the clip record"):
        records.check_version(SCHEMA.with_metadata({records.VERSION_KEY: b"7"}), "x")
