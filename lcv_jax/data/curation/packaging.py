"""Stage 3: each clip as a file of its own: cut out, without borders, upright, with square pixels, as H.264.

A source is decoded once for all of its clips, which follow one another; frames go from the decoder to the encoder one
by one. The same source and settings give the same bytes.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lcv_jax.data.curation import records
from lcv_jax.data.curation.ingest import md5
from lcv_jax.data.curation.library import Library, rows_of
from lcv_jax.data.curation.places import local_copy
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.data.images import resize_lanczos
from lcv_jax.data.video import SAME_RATE, Still, probe, resample, stream_timed
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

_OF_CLIP = ("clip_id", "start_frame", "end_frame", "start_s", "end_s", "crop")


@dataclasses.dataclass(frozen=True)
class Packaging:
    """crf: x264's quality, 0 to 51. max_short_side: pixels; larger clips are made smaller, none larger; 0 keeps all."""

    name: ClassVar[str] = "clips"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = records.CLIPS
    after: ClassVar[tuple[str, ...]] = ("ingest", "shots")

    crf: int = 18
    max_short_side: int = 0

    def __post_init__(self):
        if not 0 <= self.crf <= 51:
            raise InputError(f"clips, crf={self.crf}: expected 0 to 51")
        if self.max_short_side and self.max_short_side < 16:
            raise InputError(f"clips, max_short_side={self.max_short_side}: expected 0, or at least 16 pixels")

    def decides(self) -> Mapping[str, Any]:
        return dataclasses.asdict(self)

    def check(self) -> None:
        pass

    def tasks(self, library: Library) -> Iterable[Task]:
        clips: dict[str, list[Row]] = {}
        seconds: dict[str, float] = {}
        for row in rows_of(library.table("shots").rows()):
            name = row["source_id"]
            clips.setdefault(name, []).append({key: row[key] for key in _OF_CLIP})
            seconds[name] = seconds.get(name, 0.0) + row["end_s"] - row["start_s"]
        for row in rows_of(library.table("ingest").rows(["source_id", "uri", "variable_rate"])):
            if ordered := sorted(clips.get(row["source_id"], ()), key=lambda clip: clip["start_frame"]):
                yield Task(row["source_id"], row | {"clips": ordered}, seconds[row["source_id"]])

    def open(self, library: Library) -> Worker:
        return lambda given: self._package(given, library)

    def _package(self, given: Row, library: Library) -> Sequence[Row]:
        with local_copy(given["uri"]) as path:
            rate = _rate(probe(path).fps, given["clips"])
            source = _Source(path, given["uri"])
            return [self._written(source, clip, rate, given["variable_rate"], library) for clip in given["clips"]]

    def _written(self, source: "_Source", clip: Row, rate: Fraction, uneven: bool, library: Library) -> Row:
        name = clip["clip_id"]
        path = library.table(self.name).files / name[:2] / f"{name}.mp4"
        for left in path.parent.glob(f".{path.name}.*"):  # of who was killed here
            left.unlink(missing_ok=True)
        frames = _Frames(source.between(clip["start_frame"], clip["end_frame"]), rate if uneven else None, self, clip)
        try:
            write_video(path, frames, rate, crf=self.crf)
        except InputError as error:
            if source.failed is not None:
                raise source.failed from None
            # What cannot be written is no fault of the source, and no reason to leave it out for good.
            raise RuntimeError(str(error)) from error
        return {
            "clip_id": name,
            "file": path.relative_to(library.root).as_posix(),
            "file_md5": md5(path),
            "file_bytes": path.stat().st_size,
            "width": frames.shape[1],
            "height": frames.shape[0],
            "fps": float(rate),
            "frames": frames.count,
            "seconds": float(frames.count / rate),
        }


class _Source:
    """The frames of a source, taken once, in order. failed: why they ended too early."""

    def __init__(self, path: pathlib.Path, uri: str):
        self._stills, self._at, self._uri = stream_timed(path), 0, uri
        self.failed: InputError | None = None

    def between(self, start: int, end: int) -> Iterator[Still]:
        """Frames start to end, exclusive; start: not before the last end."""
        skip, upto, self._at = start - self._at, end - self._at, end
        count = 0
        try:
            for count, still in enumerate(itertools.islice(self._stills, skip, upto), 1):  # noqa: B007
                yield still
            if count < end - start:
                raise InputError(f"{self._uri}: ends before frame {end}, where a shot was seen; it has changed since")
        except InputError as error:
            self.failed = error
            raise


class _Frames:
    """A clip's frames as they are written, (H, W, 3) uint8. rate: at which stills are picked by their timestamps; None
    takes all. After them, shape is (H, W) and count their number."""

    def __init__(self, stills: Iterable[Still], rate: Fraction | None, settings: Packaging, clip: Row):
        if rate is not None:
            stills = resample(((still.start, still) for still in stills), rate, shown_last=1 / rate)
        self._stills, self._crop, self._short = stills, clip["crop"], settings.max_short_side
        self.shape, self.count = (0, 0), 0

    def __iter__(self) -> Iterator[np.ndarray]:
        x, y, width, height = self._crop
        size = _fitting(height, width, self._short)
        for still in self._stills:
            pixels = np.ascontiguousarray(still.pixels()[y : y + height, x : x + width])
            self.shape, self.count = size, self.count + 1
            yield resize_lanczos(pixels[None], size)[0]


def _rate(told: Fraction, clips: Sequence[Row]) -> Fraction:
    """Frames a second: as the container says, unless timestamps say otherwise, as they do where frames come unevenly
    or a container names the rate that it was made for. Of a denominator that fits into an mp4."""
    frames = sum(clip["end_frame"] - clip["start_frame"] for clip in clips)
    seconds = sum(clip["end_s"] - clip["start_s"] for clip in clips)
    found = Fraction(frames / seconds)
    return (told if 1 / SAME_RATE <= told / found <= SAME_RATE else found).limit_denominator(1001)


def _fitting(height: int, width: int, short: int) -> tuple[int, int]:
    """Height and width, even, of the same shape with a shorter side of at most `short`; 0 leaves them."""
    if not short or min(height, width) <= short:
        return height, width
    scale = short / min(height, width)
    return max(2, 2 * round(height * scale / 2)), max(2, 2 * round(width * scale / 2))
