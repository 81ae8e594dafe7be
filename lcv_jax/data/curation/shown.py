"""What a library holds, as text."""

import collections
import re

import pyarrow as pa
import pyarrow.parquet as pq

from lcv_jax.data.curation import records, tables
from lcv_jax.data.curation.ingest import unique_sources
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.pipeline import CLIPS
from lcv_jax.errors import InputError

USUAL = (
    "clip_id",
    "source_id",
    "start_s",
    "end_s",
    "width",
    "height",
    "seconds",
    "blur",
    "flow",
    "camera",
    "text_area",
)
_REASONS = 8
_WIDTH = 40


def summary(library: Library) -> str:
    """Of each stage how many items ended how, and the commonest reasons."""
    lines = [f"{'stage':<10}{'done':>8}{'rejected':>10}{'failed':>8}{'rows':>8}{'retried':>9}{'seconds':>10}"]
    reasons: list[str] = []
    for name, table in library.tables.items():
        outcomes = table.outcomes()
        ended = collections.Counter(outcomes.column("status").to_pylist())
        retried = sum(attempts > 1 for attempts in outcomes.column("attempts").to_pylist())
        seconds, rows = (sum(outcomes.column(column).to_pylist()) for column in ("seconds", "rows"))
        widths = {"done": 8, "rejected": 10, "failed": 8}
        counts = "".join(f"{ended[status]:>{width}}" for status, width in widths.items())
        lines.append(f"{name:<10}{counts}{rows:>8}{retried:>9}{seconds:>10.1f}")
        said = collections.Counter(
            (row["status"], _kind(row["reason"])) for row in outcomes.to_pylist() if row["status"] != "done"
        )
        reasons += [f"  {name}, {count} {status}: {why}" for (status, why), count in said.most_common(_REASONS)]
    if "ingest" in library.tables:
        _, duplicates = unique_sources(library, library.known)
        if duplicates:
            reasons.append(f"  ingest, {len(duplicates)} exact duplicates, left out")
    return "\n".join([*lines, *reasons])


def clips_shown(library: Library, condition: str | None, columns: tuple[str, ...], limit: int) -> str:
    """Rows of the record of clips."""
    table = read_clips(library)
    if unknown := [name for name in columns if name not in table.schema.names]:
        raise InputError(f"--columns {unknown[0]}: no such field, expected some of {', '.join(table.schema.names)}")
    if condition is not None:
        table = tables.where(table, condition, "--where")
    return _shown(table.select(list(columns or USUAL)), limit, _WIDTH)


def items_shown(library: Library, stage: str, condition: str | None, limit: int) -> str:
    """What became of a stage's items, with reasons at full length."""
    if stage not in library.tables:
        raise InputError(f"--stage {stage}: not in this library, expected one of {', '.join(library.tables)}")
    table = library.tables[stage].outcomes()
    table = table.select([*(name for name in table.schema.names if name != "reason"), "reason"])
    if condition is not None:
        table = tables.where(table, condition, "--where")
    return _shown(table, limit, None)


def read_clips(library: Library) -> pa.Table:
    """clips.parquet, its version compared."""
    path = library.root / CLIPS
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected the record that run writes") from error
    records.check_version(table.schema, str(path))
    return table


def _kind(reason: str) -> str:
    """A reason without what differs from item to item: the file in front, and numbers."""
    return re.sub(r"\d+(\.\d+)?", "N", re.sub(r"^(video )?\S+: ", "", reason))


def _shown(table: pa.Table, limit: int, width: int | None) -> str:
    """width: letters of a cell."""
    rows = [[_cell(value, width) for value in row.values()] for row in table.slice(0, limit).to_pylist()]
    widths = [max(map(len, column)) for column in zip(table.schema.names, *rows, strict=True)]
    lines = [
        "  ".join(f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True)).rstrip()
        for row in [table.schema.names, *rows]
    ]
    more = len(table) - len(rows)
    return "\n".join([*lines, f"{len(table)} rows" + (f", {more} not shown: --limit" if more else "")])


def _cell(value: object, width: int | None) -> str:
    if isinstance(value, list):
        return _cut(" ".join(_cell(part, width) for part in value), width)
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return _cut(" ".join(text.split()), width)


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else text[: width - 3] + "..."
