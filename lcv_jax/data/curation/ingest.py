"""Stage 1: what files there are, and which of them are videos that can be used.

A file is known by its source id, and by the MD5 of its bytes: of files with the same bytes one goes on, also across
runs and libraries.
"""

import dataclasses
import hashlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
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
        for place in self.known:
            known_files(place)

    def tasks(self, library: Library) -> Iterable[Task]:
        """By address, as ids of sources may clash: then the first file stands, of this run or of an earlier one."""
        before = library.table(self.name).rows(["source_id", "uri"]).to_pylist()
        if not self.sources and not before:
            raise InputError("--ingest.sources: none, expected folders, lists or files of videos")
        first = {row["source_id"]: row["uri"] for row in before}
        seen: set[str] = set()
        for place in self.sources:
            for listed in list_videos(place):
                given = dataclasses.asdict(listed)
                if (stands := first.setdefault(listed.source_id, listed.uri)) != listed.uri:
                    given["first"] = stands
                if listed.uri not in seen:
                    yield Task(listed.uri, given, listed.bytes)
                seen.add(listed.uri)

    def open(self, library: Library) -> Worker:
        return self._look

    def _look(self, given: Row) -> Sequence[Row]:
        given = dict(given)
        if first := given.pop("first", None):
            raise InputError(
                f"{given['uri']}: has the id {given['source_id']!r} of {first}, which stands for it; a .jsonl list can "
                "give it another"
            )
        listed = Listed(**given)
        with local_copy(listed.uri) as path:
            size = path.stat().st_size
            if not size:
                raise InputError(f"{listed.uri}: is empty, 0 bytes")
            packets = self._packets(listed.uri, path)
            info = probe(path)
            self._refuse(listed.uri, info, packets)
            seconds = packets.seconds(info.fps)
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
                "pixel_format": packets.pixel_format,
                "rotation": info.rotation,
                "variable_rate": packets.uneven(),
                "license": listed.license,
                "told_caption": listed.caption,
            }
        return [row]

    def _packets(self, uri: str, path: pathlib.Path) -> "_Packets":
        """Looks at all packets; nothing is decoded before it is known that frames are not too large for it."""
        with opened(path) as (container, stream):
            context = stream.codec_context
            if context.width * context.height > self.max_pixels:
                raise InputError(
                    f"{uri}: frames of {context.width} x {context.height}, more than --ingest.max-pixels "
                    f"{self.max_pixels}"
                )
            found, count = [], 0
            try:
                for packet in container.demux(stream):
                    count += packet.size > 0 and not packet.is_corrupt
                    time = packet.dts if packet.pts is None else packet.pts
                    if packet.size and time is not None and not packet.is_discard:
                        found.append(time)
            except av.FFmpegError as error:
                raise InputError(f"{uri}: is damaged after {count} frames ({error.strerror}); copy it again") from error
            # Of other containers nothing tells how many there should be.
            expected = len(stream.index_entries) if "mp4" in container.format.name else count
            if count < expected:
                raise InputError(
                    f"{uri}: is damaged, {expected - count} of {expected} frames are missing; copy it again"
                )
            return _Packets(sorted(found), stream.time_base, context.pix_fmt or "")

    def _refuse(self, uri: str, info: VideoInfo, packets: "_Packets") -> None:
        if len(packets.times) < _FEWEST_FRAMES:
            count = len(packets.times)
            raise InputError(f"{uri}: has {count} frame{'s' * (count != 1)}, expected at least {_FEWEST_FRAMES}")
        found = {
            "variable_rate": packets.uneven() and "its frames come unevenly",
            "rotated": info.rotation and f"its frames are to be turned by {info.rotation} degrees",
            "deep_colour": packets.deep() and f"has more than 8 bits a colour ({packets.pixel_format})",
        }
        for name, what in found.items():
            if what and name not in self.accept:
                raise InputError(f"{uri}: {what}; --ingest.accept {name} takes such files")


@dataclasses.dataclass(frozen=True)
class _Packets:
    """times: when the frames are shown, in units of `base` seconds, in order."""

    times: Sequence[int]
    base: Fraction
    pixel_format: str

    def seconds(self, fps: Fraction) -> float:
        """Of the whole: containers are often wrong about it."""
        return float((self.times[-1] - self.times[0]) * self.base + 1 / fps)

    def uneven(self) -> bool:
        """Whether frames are further apart here than there, beyond what containers round."""
        steps = sorted(late - early for early, late in itertools.pairwise(self.times))
        if len(steps) < 2:
            return False
        usual, least = steps[len(steps) // 2], 2 * TOLERANCE / self.base
        return usual - steps[0] > least or steps[-1] - usual > least

    def deep(self) -> bool:
        """Whether colours have more than 8 bits."""
        name = self.pixel_format
        return bool(name) and max(part.bits for part in av.VideoFormat(name).components) > 8


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
