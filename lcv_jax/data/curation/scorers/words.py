"""Text in clips: what is read on some stills, how much of the frame it covers, and what looks like a watermark."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lcv_jax.data.curation.scorers.base import Plain, Sample, Scoring, View, Word, needed, within
from lcv_jax.data.curation.scorers.views import spread

_MAP = 360
"""Lines of the map in which covered pixels are counted."""


@dataclasses.dataclass(frozen=True)
class Words:
    """What is read. frames: of a clip's stills. score: least score of a line that is believed, and `characters` its
    least number: detection alone takes smooth ground for text. side: pixels of the longer side of the picture in which
    text is looked for; smaller ones find less small text, and are faster."""

    frames: int = 3
    score: float = 0.6
    characters: int = 2
    side: int = 736

    def __post_init__(self):
        within("--annotate.words.frames", self.frames, 1)
        within("--annotate.words.score", self.score, 0.0, 1.0)
        within("--annotate.words.characters", self.characters, 1)
        within("--annotate.words.side", self.side, 64)


class WordReader:
    """PP-OCR through rapidocr, whose wheel carries the models; one thread."""

    def __init__(self, settings: Words):
        rapidocr = needed("rapidocr")
        needed("onnxruntime")
        self._settings = settings
        self._engine = rapidocr.RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.text_score": settings.score,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.limit_type": "max",
                "Det.limit_side_len": settings.side,
            }
        )

    def read(self, stills: np.ndarray) -> tuple[tuple[Word, ...], ...]:
        """Lines on some of (S, H, W, 3) uint8 RGB."""
        return tuple(self._frame(stills[at]) for at in spread(self._settings.frames, len(stills)))

    def _frame(self, still: np.ndarray) -> tuple[Word, ...]:
        # The flags of one call stay for the next, and the models were trained on BGR.
        found = self._engine(np.ascontiguousarray(still[..., ::-1]), use_det=True, use_cls=False, use_rec=True)
        if found.boxes is None:
            return ()
        size = np.float32([still.shape[1], still.shape[0]])
        lines = zip(found.txts, found.scores, found.boxes, strict=True)
        words = (Word(text.strip(), float(score), np.float32(box) / size) for text, score, box in lines)
        return tuple(word for word in words if self._believed(word))

    def _believed(self, word: Word) -> bool:
        return word.score >= self._settings.score and len("".join(word.text.split())) >= self._settings.characters


@dataclasses.dataclass(frozen=True)
class Text(Plain):
    """How much of the frame is text, and what it says."""

    fields: ClassVar[tuple[str, ...]] = ("text_area", "text_area_max", "text")
    needs: ClassVar[tuple[View, ...]] = ("words",)

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        found = []
        for clip in clips:
            areas = [covered(words, clip.stills.shape[1:3]) for words in clip.words]
            lines = Counter(word.text for words in clip.words for word in words)
            told = "\n".join(text for text, _ in lines.most_common())
            found.append({"text_area": float(np.mean(areas)), "text_area_max": max(areas), "text": told})
        return found


def covered(words: Sequence[Word], size: tuple[int, int]) -> float:
    """Share of a frame of `size` (H, W) under lines of text; what several cover counts once."""
    cv2 = needed("cv2")
    height, width = size
    scale = _MAP / min(height, width)
    shape = max(1, round(height * scale)), max(1, round(width * scale))
    under = np.zeros(shape, np.uint8)
    for word in words:
        corners = word.corners * np.float32([shape[1], shape[0]]) - 0.5
        cv2.fillConvexPoly(under, np.round(corners).astype(np.int32), 1)
    return float(under.mean())
