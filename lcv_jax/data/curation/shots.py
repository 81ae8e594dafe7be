"""Stage 2: where the shots of a source begin and end, its black borders, and marks that stay over all of them.

One pass over each source; what it finds are numbers, of which `cuts` makes shots. docs/curation/shots.md tells how.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, ClassVar

import pyarrow as pa
import tyro

from lcv_jax.data.curation import records
from lcv_jax.data.curation.borders import BorderSettings, Crop, crop
from lcv_jax.data.curation.cuts import Lengths, shots, united
from lcv_jax.data.curation.detectors import Adaptive, Content, Fades, TransNet, check_installed
from lcv_jax.data.curation.ingest import unique_sources
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.overlay import OverlaySettings, overlay
from lcv_jax.data.curation.places import local_copy
from lcv_jax.data.curation.scan import scan
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.errors import InputError

_CHUNK = 1 << 22
_NEEDED = ("source_id", "uri", "md5", "source_fps")


@dataclasses.dataclass(frozen=True)
class Shots:
    """detectors: of PySceneDetect; weights: of TransNetV2, a safetensors file that docs/curation/shots.md tells how to
    make, "" for none. What any of them finds is a transition. known: of ingest."""

    name: ClassVar[str] = "shots"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = records.SHOTS
    after: ClassVar[tuple[str, ...]] = ("ingest",)

    known: tyro.conf.Suppress[tuple[str, ...]] = ()
    detectors: Annotated[tuple[Adaptive | Content | Fades, ...], tyro.conf.AvoidSubcommands] = (Adaptive(), Fades())
    weights: str = ""
    transnet: TransNet = dataclasses.field(default_factory=TransNet)
    lengths: Lengths = dataclasses.field(default_factory=Lengths)
    borders: BorderSettings = dataclasses.field(default_factory=BorderSettings)
    overlay: OverlaySettings = dataclasses.field(default_factory=OverlaySettings)

    def decides(self) -> Mapping[str, Any]:
        named = [{"detector": type(one).__name__, **dataclasses.asdict(one)} for one in self.detectors]
        if self.weights:
            named.append({"weights": _fingerprint(self.weights), **dataclasses.asdict(self.transnet)})
        parts = {name: dataclasses.asdict(getattr(self, name)) for name in ("lengths", "borders", "overlay")}
        return {"detectors": named, **parts}

    def check(self) -> None:
        if not (self.detectors or self.weights):
            raise InputError("shots: neither detectors nor weights, expected some that tell where shots change")
        if self.detectors:
            check_installed()

    def tasks(self, library: Library) -> Iterable[Task]:
        rows, _ = unique_sources(library, self.known)
        for row in rows:
            yield Task(row["source_id"], {name: row[name] for name in _NEEDED}, row["source_seconds"])

    def open(self, library: Library) -> Worker:
        network = None
        if self.weights:
            from lcv_jax.data.curation.transnet import load

            network = load(self.weights)
        return lambda given: self._cut(given, network)

    def _cut(self, given: Row, network: Any) -> Sequence[Row]:
        fps = Fraction(given["source_fps"]).limit_denominator(1001)
        running = [one.open(fps) for one in self.detectors]
        if network is not None:
            running.append(self.transnet.open(network))
        with local_copy(given["uri"]) as path:
            seen = scan(path, fps, running)
        where = given["uri"]
        picture = crop(seen.large, seen.small, self.borders)
        if picture is None:
            raise InputError(f"{where}: shows nothing but black")
        transitions = united(seen.transitions)
        found = shots(transitions, seen.starts, self.lengths)
        if not found:
            raise InputError(
                f"{where}: none of its {len(transitions) + 1} shots lasts {self.lengths.least:g} seconds, of "
                f"{seen.starts[-1]:.2f} in all"
            )
        mark = overlay(seen.spread, picture, seen.size, self.overlay)
        return [
            {
                "clip_id": clip_id(given["md5"], shot.start, shot.end, picture),
                "source_id": given["source_id"],
                "shot": shot.number,
                "start_frame": shot.start,
                "end_frame": shot.end,
                "start_s": float(seen.starts[shot.start]),
                "end_s": float(seen.starts[shot.end]),
                "cut_in": shot.cut_in,
                "cut_out": shot.cut_out,
                "crop": list(picture),
                "overlay": mark and list(mark),
            }
            for shot in found
        ]


def clip_id(md5: str, start: int, end: int, picture: Crop) -> str:
    """What a clip is known by: the bytes of its source, its frames, its crop."""
    return hashlib.sha1(f"{md5}:{start}:{end}:{list(picture)}".encode(), usedforsecurity=False).hexdigest()[:16]


def _fingerprint(weights: str) -> str:
    path = pathlib.Path(weights)
    if not path.is_file():
        raise InputError(f"--shots.weights {weights}: no such file; docs/curation/shots.md tells how to make it")
    value = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value.update(chunk)
    return value.hexdigest()
