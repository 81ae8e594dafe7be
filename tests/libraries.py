"""Libraries of curation made by hand: the rows that stages before would have written, for what comes behind them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from lcv_jax.data.curation import records
from lcv_jax.data.curation.library import Library

SCHEMAS = {
    "ingest": records.SOURCES,
    "shots": records.SHOTS,
    "clips": records.CLIPS,
    "annotate": records.SCORES,
    "caption": records.CAPTIONS,
    "embed": records.EMBEDDINGS,
}
USUAL = {
    "source_id": "source.mp4",
    "md5": "0" * 32,
    "start_s": 0.0,
    "end_s": 8.0,
    "width": 640,
    "height": 360,
    "fps": 24.0,
    "frames": 192,
    "seconds": 8.0,
    "blur": 300.0,
    "flow": 2.0,
    "text_area": 0.0,
    "camera": ["static"],
}


def clip(clip_id: str, caption: str | None = "A cat sits.", **fields: Any) -> dict[str, Any]:
    """Fields of a clip of all stages; the caption is English and basic."""
    told = {"kind": "basic", "language": "en", "text": caption, "model": "m", "seed": None}
    own = {"clip_id": clip_id, "file": f"clips/{clip_id}.mp4", "captions": [told] if caption is not None else []}
    return USUAL | own | fields


def library(root: pathlib.Path, clips: Sequence[Mapping[str, Any]], **about: Any) -> Library:
    """With rows of these clips: no row of clips where "file" is None, none of embed without an embedding. about: what
    is said to decide the rows, by stage."""
    made = Library(root)
    for name, schema in SCHEMAS.items():
        made = made.with_stage(name, schema, {"version": 1, "made": about.get(name)}, ())
    sources = {row["source_id"]: row for row in clips}
    write(made, "ingest", list(sources.values()))
    write(made, "shots", clips)
    write(made, "clips", [row for row in clips if row["file"] is not None])
    write(made, "annotate", clips)
    write(made, "caption", clips)
    write(made, "embed", [row for row in clips if row.get("embedding") is not None])
    return made


def write(made: Library, stage: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A part of a stage, an item each row, none where there are no rows; fields that are not given are null."""
    if not rows:
        return
    key = "source_id" if stage == "ingest" else "clip_id"
    names = SCHEMAS[stage].names
    outcomes = [
        {"id": row[key], "status": "done", "reason": "", "attempts": 1, "seconds": 0.5, "rows": 1} for row in rows
    ]
    made.table(stage).write([{name: row.get(name) for name in names} for row in rows], outcomes)
