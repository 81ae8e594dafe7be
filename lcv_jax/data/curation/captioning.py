"""Stage 5: what clips show, in words, and how they are filmed.

Captions are what a source told, what a model says of frames, translations and summaries by a model that writes, and
compositions of those with how the clip is filmed. Without any model there are still told captions and compositions.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from lcv_jax.data.curation import composing, prompts, records
from lcv_jax.data.curation.cinematography import FIELDS, read_answer, settled
from lcv_jax.data.curation.composing import Composing, Filmed, compositions
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.speakers import ModelSettings, Question, Speaker, check_speaker, open_speaker
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.data.images import resize_lanczos
from lcv_jax.data.video import stream_video
from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

Kind = Literal["basic", "cinematography", "translated", "summary", "composed"]
OTHER = {"en": "zh", "zh": "en"}
_SEEN: tuple[Kind, ...] = ("basic", "cinematography")
_WRITTEN: tuple[Kind, ...] = ("translated", "summary")
_TRIES = 2
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclasses.dataclass(frozen=True)
class Captioning:
    """kinds: of what is made; basic and cinematography need `video`, a model that sees, translated and summary need
    `writer`, a model of text, and are left out without it. frames: of a clip that are shown, evenly spread; side: their
    longer side, in pixels. Captions that sources told are always there."""

    name: ClassVar[str] = "caption"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = records.CAPTIONS
    after: ClassVar[tuple[str, ...]] = ("ingest", "shots", "clips", "annotate")

    kinds: tuple[Kind, ...] = ("basic", "cinematography", "translated", "summary", "composed")
    video: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    writer: ModelSettings = dataclasses.field(default_factory=ModelSettings)
    compose: Composing = dataclasses.field(default_factory=Composing)
    frames: int = 8
    side: int = 512

    def __post_init__(self):
        for name, least in (("frames", 1), ("side", 28)):
            if getattr(self, name) < least:
                raise InputError(f"caption, {name}={getattr(self, name)}: expected at least {least}")

    def decides(self) -> Mapping[str, Any]:
        seen = {"model": self.video.decides(), "frames": self.frames, "side": self.side} if self.video.given else None
        composed = {"version": composing.VERSION, **dataclasses.asdict(self.compose)}
        return {
            "kinds": sorted(set(self.kinds)),
            "prompts": prompts.VERSION,
            "video": seen,
            "writer": self.writer.decides(),
            "compose": composed | {"languages": list(self.compose.languages)} if "composed" in self.kinds else None,
        }

    def check(self) -> None:
        for what, settings, kinds in (("video", self.video, _SEEN), ("writer", self.writer, _WRITTEN)):
            check_speaker(settings)
            if not settings.given and (left_out := [kind for kind in kinds if kind in self.kinds]):
                logger.warning(
                    "caption: without %s, as no model is given: --caption.%s.url and .name, or .path",
                    " and ".join(left_out),
                    what,
                )

    def tasks(self, library: Library) -> Iterable[Task]:
        """Clips; where compositions are wanted, those of which annotate has said its last word, for the camera."""
        told = _told_captions(library)
        cameras = _pairs(library, "annotate", "clip_id", "camera")
        ready = None
        if "composed" in self.kinds:
            ended = library.table("annotate").outcomes().to_pylist()
            ready = {row["id"] for row in ended if row["status"] != "failed"}
        for clip in library.table("clips").rows(["clip_id", "file", "frames"]).to_pylist():
            name = clip["clip_id"]
            if ready is None or name in ready:
                given = clip | {"told": told.get(name), "camera": cameras.get(name) or []}
                yield Task(name, given, clip["frames"])

    def open(self, library: Library) -> Worker:
        video = open_speaker(self.video) if set(_SEEN) & set(self.kinds) else None
        if self.writer == self.video and video is not None:
            writer: Speaker | None = video  # one model in memory
        else:
            writer = open_speaker(self.writer) if set(_WRITTEN) & set(self.kinds) else None
        return _Captioner(self, library.root, video, writer)


@dataclasses.dataclass(frozen=True)
class _Captioner:
    """The worker."""

    settings: Captioning
    root: pathlib.Path
    video: Speaker | None
    writer: Speaker | None

    def __call__(self, given: Row) -> Sequence[Row]:
        asking = _Asking()
        captions = [_caption("told", language_of(told), told)] if (told := _line(given["told"] or "")) else []
        answer = None
        if self.video is not None:
            frames = clip_frames(self.root / given["file"], given["frames"], self.settings.frames, self.settings.side)
            if self._wants("basic"):
                captions = asking.text("basic", self.video, Question(prompts.DESCRIBE, frames), "en") + captions
            if self._wants("cinematography"):
                answer = asking.choice(self.video, Question(prompts.cinematography(FIELDS), frames, FIELDS))
        if self.writer is not None and captions:
            captions += self._written(asking, self.writer, captions[0])
        said = settled(answer)
        if self._wants("composed"):
            captions += self._composed(given["clip_id"], captions, Filmed(given["camera"], said))
        asked = self.video is not None or self.writer is not None
        row = {"clip_id": given["clip_id"], "captions": captions, **said}
        return [{**row, "invalid_answers": asking.invalid if asked else None}]

    def _wants(self, kind: Kind) -> bool:
        return kind in self.settings.kinds

    def _written(self, asking: "_Asking", writer: Speaker, main: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Of the first caption, the translation, and the summaries of both."""
        made, texts = [], {main["language"]: main["text"]}
        if self._wants("translated"):
            language = OTHER[main["language"]]
            made = asking.text("translated", writer, Question(prompts.translate(main["text"], language)), language)
            texts |= {caption["language"]: caption["text"] for caption in made}
        if self._wants("summary"):
            for language, text in texts.items():
                made += asking.text("summary", writer, Question(prompts.summarise(text, language)), language)
        return made

    def _composed(self, clip_id: str, captions: Sequence[Mapping[str, Any]], filmed: Filmed) -> list[dict[str, Any]]:
        bases: dict[str, list[str]] = {}
        for caption in captions:
            bases.setdefault(caption["language"], []).append(caption["text"])
        made = compositions(self.settings.compose, clip_id, bases, filmed)
        return [_caption("composed", language, text, None, seed) for language, seed, text in made]


@dataclasses.dataclass
class _Asking:
    """Questions about one clip. invalid: answers so far that were not of the form asked for. After two of them in a row
    there is no answer; none is mended or guessed."""

    invalid: int = 0

    def text(self, kind: str, speaker: Speaker, question: Question, language: str) -> list[dict[str, Any]]:
        """A caption in the language, or none."""
        for attempt in self._attempts(question):
            found = _line(speaker(attempt))
            if is_in(found, language):
                return [_caption(kind, language, found, speaker.name)]
            self.invalid += 1
        return []

    def choice(self, speaker: Speaker, question: Question) -> dict[str, str] | None:
        """A value for each of the question's fields, or None."""
        for attempt in self._attempts(question):
            found = read_answer(speaker(attempt), question.fields or {})
            if found is not None:
                return found
            self.invalid += 1
        return None

    def _attempts(self, question: Question) -> Iterable[Question]:
        yield question
        for _ in range(_TRIES - 1):
            yield dataclasses.replace(question, text=question.text + prompts.AGAIN)


def language_of(text: str) -> str:
    """Of a caption that was told: zh where there is any Chinese character, otherwise en."""
    return "zh" if _CHINESE.search(text) else "en"


def is_in(text: str, language: str) -> bool:
    """Whether an answer is in the language: for zh any Chinese character, for en fewer of them than Latin letters, as
    English may quote a sign."""
    chinese = len(_CHINESE.findall(text))
    return chinese > 0 if language == "zh" else chinese < len(re.findall(r"[A-Za-z]", text))


def clip_frames(path: pathlib.Path, frames: int, count: int, side: int) -> list[np.ndarray]:
    """Up to `count` of a clip's `frames`, (H, W, 3) uint8, from the middles of parts of equal length, in order; scaled
    so that the longer side is `side`, if it is longer. Raises InputError where the file is no such video."""
    count = min(count, frames)
    wanted = {(2 * i + 1) * frames // (2 * count) for i in range(count)}
    found = [_scaled(frame, side) for frame in stream_video(path, only=wanted)]
    if len(found) < len(wanted):
        raise InputError(f"video {path}: has fewer than the {frames} frames that it was written with; cut it again")
    return found


def _scaled(frame: np.ndarray, side: int) -> np.ndarray:
    height, width = frame.shape[:2]
    if max(height, width) <= side:
        return frame
    size = (max(1, round(height * side / max(height, width))), max(1, round(width * side / max(height, width))))
    return resize_lanczos(frame[None], size)[0]


def _caption(kind: str, language: str, text: str, model: str | None = None, seed: int | None = None) -> dict[str, Any]:
    return {"kind": kind, "language": language, "text": text, "model": model, "seed": seed}


def _line(text: str) -> str:
    return " ".join(text.split())


def _told_captions(library: Library) -> dict[str, str | None]:
    """Of each clip that of its source."""
    told = _pairs(library, "ingest", "source_id", "told_caption")
    return {clip: told.get(source) for clip, source in _pairs(library, "shots", "clip_id", "source_id").items()}


def _pairs(library: Library, stage: str, key: str, field: str) -> dict[str, Any]:
    """A field of a stage's rows by another."""
    rows = library.table(stage).rows([key, field])
    return dict(zip(rows.column(key).to_pylist(), rows.column(field).to_pylist(), strict=True))
