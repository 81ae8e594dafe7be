"""Marks that stay in place: what the source's shots have in common, text near the border that stands still, and, where
one is given, the word of a model."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from lcv_jax.data.curation.scorers.base import Plain, Sample, Scoring, View, Word, needed, within
from lcv_jax.data.curation.scorers.views import spread
from lcv_jax.data.curation.scorers.weights import fingerprint
from lcv_jax.errors import InputError

_MEAN, _STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@dataclasses.dataclass(frozen=True)
class Watermark(Plain):
    """0 to 1, the largest of what these say, and which of them it was: "overlay", 1 where shots found a mark that stays
    over the source; "text", the share of frames in which a line near the border stands still, halved where the picture
    around it stands still as well; and the name of a model's file.

    margin: how near, as a share of the width and height, to a corner a line has to reach. same: least overlap
    (intersection over union) of boxes of a line that stands still. changed: grey levels by which a picture changes on
    average that does not stand still. model: an ONNX file of a classifier of pictures, (N, 3, H, W) float32 in, RGB
    normalised as for ImageNet, (N, 2) out, scores of clean and marked, or (N, 1), the score of marked, either before
    softmax or sigmoid; None asks none. frames: of a clip that it sees.
    """

    fields: ClassVar[tuple[str, ...]] = ("watermark", "watermark_method")
    needs: ClassVar[tuple[View, ...]] = ("words",)

    margin: float = 0.12
    same: float = 0.7
    changed: float = 6.0
    model: str | None = None
    frames: int = 4

    def __post_init__(self):
        within("watermark, margin", self.margin, 0.0, 0.5)
        within("watermark, same", self.same, 0.0, 1.0)
        within("watermark, changed", self.changed, 0.0)
        within("watermark, frames", self.frames, 1)

    def decides(self) -> Mapping[str, Any]:
        model = None if self.model is None else fingerprint(self.model)
        return dataclasses.asdict(self) | {"model": model}

    def check(self) -> None:
        if self.model is not None:
            open_model(self.model)

    def open(self) -> Scoring:
        marked = open_model(self.model) if self.model is not None else None

        def score(clips: Sequence[Sample]) -> list[dict[str, Any]]:
            return [self._clip(clip, marked) for clip in clips]

        return score

    def _clip(self, clip: Sample, marked: Callable[[np.ndarray], np.ndarray] | None) -> dict[str, Any]:
        found = {"overlay": 0.0 if clip.overlay is None else 1.0, "text": self.standing(clip)}
        if marked is not None:
            some = clip.stills[list(spread(self.frames, len(clip.stills)))]
            found[pathlib.Path(self.model).stem] = float(marked(some).mean())
        method = max(found, key=found.__getitem__)
        score = found[method]
        return {"watermark": score, "watermark_method": method if score > 0 else None}

    def standing(self, clip: Sample) -> float:
        """The share of frames in which the line near a corner that stands longest is seen."""
        frames = len(clip.words)
        near = [[word for word in words if self._near_a_corner(word)] for words in clip.words]
        best = 0.0
        for word in itertools.chain(*near):
            seen = sum(any(overlap(word, other) >= self.same for other in words) for words in near)
            best = max(best, seen / frames if seen > 1 or frames == 1 else 0.0)
        return best if best == 0.0 or _change(clip.stills) >= self.changed else best / 2

    def _near_a_corner(self, word: Word) -> bool:
        left, top, right, bottom = word.box
        across = left <= self.margin or right >= 1 - self.margin
        return across and (top <= self.margin or bottom >= 1 - self.margin)


def overlap(one: Word, other: Word) -> float:
    """Intersection over union of the boxes of two lines."""
    (left, top, right, bottom), (left2, top2, right2, bottom2) = one.box, other.box
    across, down = min(right, right2) - max(left, left2), min(bottom, bottom2) - max(top, top2)
    if across <= 0 or down <= 0:
        return 0.0
    both = across * down
    return both / ((right - left) * (bottom - top) + (right2 - left2) * (bottom2 - top2) - both)


def open_model(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """A classifier of (N, H, W, 3) uint8 pictures: (N,) float32, the probability of a mark.

    Raises InputError where the file is missing, or is no ONNX model with the inputs and outputs that are expected.
    """
    runtime, cv2 = needed("onnxruntime"), needed("cv2")
    if not pathlib.Path(path).is_file():
        raise InputError(f"watermark model {path}: no such file, expected an ONNX model; docs/curation/scorers.md")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class of their own below Exception
        raise InputError(f"watermark model {path}: cannot be loaded ({_line(error)}), expected ONNX") from error
    (given, *more), (out, *_) = session.get_inputs(), session.get_outputs()
    shape = given.shape
    if more or len(shape) != 4 or shape[1] != 3 or given.type != "tensor(float)":
        raise InputError(f"watermark model {path}: takes {given.type} {shape}, expected one input, float (N, 3, H, W)")
    if len(out.shape) != 2 or out.shape[1] not in (1, 2):
        raise InputError(f"watermark model {path}: gives {out.shape}, expected (N, 1) or (N, 2)")
    height, width = (side if isinstance(side, int) else 320 for side in shape[2:])

    def marked(pictures: np.ndarray) -> np.ndarray:
        small = np.stack([cv2.resize(p, (width, height), interpolation=cv2.INTER_AREA) for p in pictures])
        pixels = ((small.astype(np.float32) / 255 - _MEAN) / _STD).transpose(0, 3, 1, 2)
        each = [session.run([out.name], {given.name: np.ascontiguousarray(p[None])})[0][0] for p in pixels]
        return probability(np.stack(each))

    return marked


def probability(scores: np.ndarray) -> np.ndarray:
    """Of (N, 2) or (N, 1) scores, (N,): of the last class. Scores that are shares already are taken as they are."""
    scores = scores.astype(np.float64)
    if scores.shape[1] == 1:
        shares = scores if scores.min() >= 0 and scores.max() <= 1 else 1 / (1 + np.exp(-scores))
    elif scores.min() >= 0 and np.allclose(scores.sum(1), 1, atol=1e-3):
        shares = scores
    else:
        shares = np.exp(scores - scores.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
    return shares[:, -1].astype(np.float32)


def _change(stills: np.ndarray) -> float:
    """Mean standard deviation of grey levels in time, on a coarse grid."""
    cv2 = needed("cv2")
    small = np.stack([cv2.resize(still, (64, 36), interpolation=cv2.INTER_AREA) for still in stills])
    return float(small.astype(np.float32).mean(-1).std(0).mean())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
