"""Stage 1: what files there are, and which of them are videos that can be used.

A file is known by its source id, and by the MD5 of its bytes: of files with the same bytes one goes on, also across
runs and libraries.
"""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import av
import pyarrow as pa

from lcv_jax.data.curation import records
from lcv_jax.data.curation.library import Library, Table, rows_of
from lcv_jax.data.curation.places import Listed, list_videos, local_copy
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.data.video import TOLERANCE, VideoInfo, opened, probe
from lcv_jax.errors import InputError

Peculiarity = Literal["variable_rate", "rotated", "deep_colour"]
_CHUNK = 1 << 22
_FEWEST_FRAMES = 2


@dataclasses.dataclass(frozen=True)
class Ingest:
    """sources: folders, all of whose files are taken; lists, .jsonl with "file" and, if known, "id", "caption" and
    "license" a line, or .txt with a path a line; single files; any of them at s3://, gs:// or what else fsspec knows.
    known: other libraries, whose files are duplicates here. accept: peculiarities that are no reason to refuse a file;
    frames of a variable rate are spaced evenly, rotated ones turned upright, more than 8 bits rounded to 8. max_pixels:
    of a frame."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = records.SOURCES
    after: ClassVar[tuple[str, ...]] = ()

    sources: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    accept: tuple[Peculiarity, ...] = ()
    max_pixels: int = 4096 * 2304

    def decides(self) -> Mapping[str, Any]:
        return {"accept": sorted(self.accept), "max_pixels": self.max_pixels}

    def check(self) -> None:
        if not self.sources:
            raise InputError("--ingest.sources: none, expected folders, lists or files of videos")
        for place in self.known:
            known_files(place)

    def tasks(self, library: Library) -> Iterable[Task]:
        seen: dict[str, str] = {}
        for place in self.sources:
            for listed in list_videos(place):
                given = dataclasses.asdict(listed)
                first = seen.setdefault(listed.source_id, listed.uri)
                if first == listed.uri:
                    yield Task(listed.source_id, given, listed.bytes)
                else:
                    yield Task(f"{listed.source_id} {listed.uri}", given | {"first": first})

    def open(self, library: Library) -> Worker:
        return self._look

    def _look(self, given: Row) -> Sequence[Row]:
        given = dict(given)
        if first := given.pop("first", None):
            raise InputError(f"{given['uri']}: has the id {given['source_id']!r} of {first}, which stands for it")
        listed = Listed(**given)
        with local_copy(listed.uri) as path:
            size = path.stat().st_size
            if not size:
                raise InputError(f"{listed.uri}: is empty, 0 bytes")
            info, pixel_format, times = probe(path), _pixel_format(path), _times(path)
            self._refuse(listed.uri, info, pixel_format, times)
            seconds = info.duration or float(times[-1] - times[0]) + 1 / float(info.fps)
            row = {
                "source_id": listed.source_id,
                "uri": listed.uri,
                "md5": md5(path),
                "bytes": size,
                "codec": info.codec,
                "source_width": info.width,
                "source_height": info.height,
                "source_fps": float(info.fps),
                "source_frames": info.frames,
                "source_seconds": seconds,
                "bitrate": 8 * size / seconds,
                "pixel_format": pixel_format,
                "rotation": info.rotation,
                "variable_rate": _uneven(times),
                "license": listed.license,
                "told_caption": listed.caption,
            }
        return [row]

    def _refuse(self, uri: str, info: VideoInfo, pixel_format: str, times: Sequence[Any]) -> None:
        if len(times) < _FEWEST_FRAMES:
            raise InputError(f"{uri}: holds {len(times)} frame, expected a video of at least {_FEWEST_FRAMES}")
        if info.width * info.height > self.max_pixels:
            raise InputError(
                f"{uri}: frames of {info.width} x {info.height}, more than --ingest.max-pixels {self.max_pixels}"
            )
        found = {
            "variable_rate": _uneven(times) and "its frames come unevenly",
            "rotated": info.rotation and f"its frames are to be turned by {info.rotation} degrees",
            "deep_colour": _deep(pixel_format) and f"has more than 8 bits a colour ({pixel_format})",
        }
        for name, what in found.items():
            if what and name not in self.accept:
                raise InputError(f"{uri}: {what}; --ingest.accept {name} takes such files")


def unique_sources(library: Library, known: Iterable[str]) -> tuple[list[Row], dict[str, str]]:
    """Of files with the same bytes one row each, by id; and of the others, what stands for them, by id.

    The one that the next stage has seen stays, so that it does not change with what is found later, or else the one
    with the first id. known: other libraries, whose files stand for any here.
    """
    cut = set(library.tables["shots"].outcomes().column("id").to_pylist()) if "shots" in library.tables else set()
    elsewhere = {md5: f"{place}: {name}" for place in known for md5, name in known_files(place).items()}
    rows = sorted(
        rows_of(library.table("ingest").rows()), key=lambda row: (row["source_id"] not in cut, row["source_id"])
    )
    kept: dict[str, Row] = {}
    duplicates: dict[str, str] = {}
    for row in rows:
        if row["md5"] in elsewhere and row["source_id"] not in cut:
            duplicates[row["source_id"]] = elsewhere[row["md5"]]
        elif row["md5"] in kept:
            duplicates[row["source_id"]] = kept[row["md5"]]["source_id"]
        else:
            kept[row["md5"]] = row
    return sorted(kept.values(), key=lambda row: row["source_id"]), duplicates


def known_files(place: str) -> dict[str, str]:
    """Of another library the source ids by MD5."""
    root = pathlib.Path(place)
    folders = sorted(root.glob("ingest-*"))
    if not folders:
        raise InputError(f"--ingest.known {place}: is no library of curation, expected a folder that run wrote")
    found: dict[str, str] = {}
    for folder in folders:
        rows = Table(folder, records.SOURCES).rows(["source_id", "md5"]).to_pylist()
        found |= {row["md5"]: row["source_id"] for row in rows}
    return found


def md5(path: pathlib.Path) -> str:
    """Of a file's bytes."""
    value = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()


def _pixel_format(path: pathlib.Path) -> str:
    with opened(path) as (_, stream):
        return stream.codec_context.pix_fmt or ""


def _deep(pixel_format: str) -> bool:
    return bool(pixel_format) and max(part.bits for part in av.VideoFormat(pixel_format).components) > 8


def _times(path: pathlib.Path) -> list[Any]:
    """When the packets are shown, in seconds, in order; nothing is decoded."""
    with opened(path) as (container, stream):
        found = [packet.pts * packet.time_base for packet in container.demux(stream) if packet.pts is not None]
    return sorted(found)


def _uneven(times: Sequence[Any]) -> bool:
    """Whether frames are further apart here than there, beyond what containers round."""
    if len(times) < 3:
        return False
    steps = sorted(late - early for early, late in itertools.pairwise(times))
    usual = steps[len(steps) // 2]
    return any(abs(step - usual) > 2 * TOLERANCE for step in steps)
