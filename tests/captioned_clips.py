"""A library with clips that wait for captions, for tests: as the stages before leave it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.data.curation import records
from lcv_jax.data.curation.library import Library
from lcv_jax.data.video_writer import write_video

FRAMES, HEIGHT, WIDTH = 20, 64, 96
BEFORE = {
    "ingest": records.SOURCES,
    "shots": records.SHOTS,
    "clips": records.CLIPS,
    "annotate": records.SCORES,
    "caption": records.CAPTIONS,
}


def grey(number: int) -> int:
    """Of all pixels of a frame."""
    return 20 + 10 * number


def write_clip(path: pathlib.Path) -> None:
    frames = np.empty((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:] = np.array([grey(number) for number in range(FRAMES)], np.uint8)[:, None, None, None]
    write_video(path, frames, 10)


def captioned_library(
    root: pathlib.Path,
    told: Mapping[str, str | None],
    camera: Mapping[str, Sequence[str] | str],
    stage: Any = None,
) -> Library:
    """told: the caption of each clip's source. camera: of clips that annotate has ended, the labels, or how else it
    ended. stage: one to come behind, whose table is made."""
    library = Library(root)
    for name in ("ingest", "shots", "clips", "annotate"):
        library = library.with_stage(name, BEFORE[name], {}, ())
    rows: dict[str, list[Mapping[str, Any]]] = {name: [] for name in BEFORE}
    ended = {name: [] for name in BEFORE}
    for clip, caption in told.items():
        file = f"{library.table('clips').key}/files/{clip}.mp4"
        write_clip(root / file)
        source = {"source_id": f"source of {clip}", "told_caption": caption}
        made = {"clip_id": clip, "file": file, "width": WIDTH, "height": HEIGHT, "frames": FRAMES, "fps": 10.0}
        for name, row in (("ingest", source), ("shots", {"clip_id": clip, **source}), ("clips", made)):
            rows[name].append(_filled(name, row))
            ended[name].append(outcome(clip))
    for clip, labels in camera.items():
        ended["annotate"].append(outcome(clip, labels if isinstance(labels, str) else "done"))
        if not isinstance(labels, str):
            rows["annotate"].append(_filled("annotate", {"clip_id": clip, "camera": list(labels)}))
    for name in ("ingest", "shots", "clips", "annotate"):
        library.table(name).write(rows[name], ended[name])
    return library if stage is None else library.with_stage(stage.name, stage.schema, stage.decides(), stage.after)


def outcome(name: str, status: str = "done") -> Mapping[str, Any]:
    return {"id": name, "status": status, "reason": "", "attempts": 1, "seconds": 0.1, "rows": 1}


def _filled(name: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {field: row.get(field) for field in BEFORE[name].names}
