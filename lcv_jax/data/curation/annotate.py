"""Stage 4: what the scorers say of each clip. A clip is decoded once, for all of them (scorers/views.py)."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import pyarrow as pa
import tyro

from lcv_jax.data.curation import records
from lcv_jax.data.curation.library import Library, rows_of
from lcv_jax.data.curation.scorers.aesthetic import Aesthetic
from lcv_jax.data.curation.scorers.base import Sample, View, needed
from lcv_jax.data.curation.scorers.camera import Camera
from lcv_jax.data.curation.scorers.motion import Motion
from lcv_jax.data.curation.scorers.pictures import Blur, Exposure, PerceptualHash, Texture
from lcv_jax.data.curation.scorers.views import FlowView, Stills, look
from lcv_jax.data.curation.scorers.watermark import Watermark
from lcv_jax.data.curation.scorers.words import Text, WordReader, Words
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.errors import InputError

AnyScorer = Blur | Exposure | Texture | Motion | Camera | Text | Watermark | PerceptualHash | Aesthetic


@dataclasses.dataclass(frozen=True)
class Annotation:
    """scorers: which there are; the fields of others are null. stills, flow, words: what of a clip they look at; only
    what some scorer needs is computed."""

    name: ClassVar[str] = "annotate"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = records.SCORES
    after: ClassVar[tuple[str, ...]] = ("clips", "shots")

    # Without this every scorer is a subcommand on the command line, not an option such as --annotate.scorers.0.lines.
    scorers: Annotated[tuple[AnyScorer, ...], tyro.conf.AvoidSubcommands] = (
        Blur(),
        Exposure(),
        Texture(),
        Motion(),
        Camera(),
        Text(),
        Watermark(),
        PerceptualHash(),
    )
    stills: Stills = dataclasses.field(default_factory=Stills)
    flow: FlowView = dataclasses.field(default_factory=FlowView)
    words: Words = dataclasses.field(default_factory=Words)

    def decides(self) -> Mapping[str, Any]:
        told: dict[str, Any] = {type(scorer).__name__: dict(scorer.decides()) for scorer in self.scorers}
        views = {"flow": self.flow, "words": self.words}
        used = {name: dataclasses.asdict(view) for name, view in views.items() if name in self._needs()}
        return {"scorers": told, "stills": dataclasses.asdict(self.stills), **used}

    def check(self) -> None:
        if not self.scorers:
            raise InputError("--annotate.scorers: none, expected some, such as Blur()")
        fields = Counter(name for scorer in self.scorers for name in scorer.fields)
        if twice := [name for name, count in fields.items() if count > 1]:
            raise InputError(f"--annotate.scorers: {twice[0]} is given by {fields[twice[0]]} of them, expected one")
        needed("cv2")
        for scorer in self.scorers:
            scorer.check()
        if "words" in self._needs():
            needed("rapidocr")
            needed("onnxruntime")

    def tasks(self, library: Library) -> Iterable[Task]:
        shots = library.table("shots").rows(["clip_id", "overlay"]).to_pylist()
        overlays = {row["clip_id"]: row["overlay"] for row in shots}
        for row in rows_of(library.table("clips").rows(["clip_id", "file", "width", "height", "fps", "frames"])):
            given = {**row, "overlay": overlays.get(row["clip_id"])}
            yield Task(row["clip_id"], given, row["frames"] * row["width"] * row["height"])

    def open(self, library: Library) -> Worker:
        needed("cv2").setNumThreads(1)
        return _worker(self, library)

    def _needs(self) -> set[View]:
        return {view for scorer in self.scorers for view in scorer.needs}


def _worker(stage: Annotation, library: Library) -> Worker:
    needs = {view for scorer in stage.scorers for view in scorer.needs}
    read: Callable[..., Any] | None = WordReader(stage.words).read if "words" in needs else None
    scorings = [scorer.open() for scorer in stage.scorers]

    def work(given: Row) -> Sequence[Row]:
        sample = _sample(given)
        row: dict[str, Any] = dict.fromkeys(records.SCORES.names) | {"clip_id": sample.clip_id}
        for scoring in scorings:
            row |= scoring([sample])[0]
        return [row]

    def _sample(given: Row) -> Sample:
        path = library.root / given["file"]
        flow = stage.flow if "flow" in needs else None
        stills, moves = look(path, given["frames"], given["fps"], stage.stills, flow)
        words = read(stills) if read is not None else None
        overlay = tuple(given["overlay"]) if given["overlay"] is not None else None
        return Sample(given["clip_id"], stills, moves, words, overlay)

    return work
