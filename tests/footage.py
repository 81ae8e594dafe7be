"""Footage whose cuts, fades, borders and marks are known, for tests of curation: pictures of coloured noise that a
camera pans over, and what is done to them."""

from collections.abc import Sequence

import numpy as np
import PIL.Image

from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Stage, Worker


def scene(seed: int, count: int, height: int = 90, width: int = 160, speed: float = 1.0) -> np.ndarray:
    """(F, H, W, 3) uint8: a pan over soft patches of colour with some grain on them, `speed` pixels a frame."""
    rng = np.random.default_rng(seed)
    wide = width + int(np.ceil(count * speed)) + 1
    patches = rng.integers(30, 250, (5, max(2, 5 * wide // height), 3)).astype(np.uint8)
    soft = PIL.Image.fromarray(patches).resize((wide, height), PIL.Image.Resampling.BICUBIC)
    grain = rng.integers(-12, 13, (height, wide, 1))
    picture = np.clip(np.asarray(soft).astype(int) + grain, 0, 255).astype(np.uint8)
    return np.stack([picture[:, int(i * speed) : int(i * speed) + width] for i in range(count)])


def dissolve(before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """One into the other over `length` frames, which both have in common: (F1 + F2 - length, H, W, 3)."""
    share = (np.arange(1, length + 1) / (length + 1))[:, None, None, None]
    mixed = before[-length:] * (1 - share) + after[:length] * share
    return np.concatenate([before[:-length], mixed.astype(np.uint8), after[length:]])


def through_black(before: np.ndarray, after: np.ndarray, length: int) -> np.ndarray:
    """The last `length` frames fade out, and the first ones of the next scene in: (F1 + F2, H, W, 3)."""
    share = (np.arange(1, length + 1) / length)[:, None, None, None]
    out, into = before[-length:] * share[::-1], after[:length] * share
    out[-1], into[0] = 0, 0
    return np.concatenate([before[:-length], out.astype(np.uint8), into.astype(np.uint8), after[length:]])


def bordered(frames: np.ndarray, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> np.ndarray:
    """With black around it."""
    return np.pad(frames, ((0, 0), (top, bottom), (left, right), (0, 0)))


def marked(frames: np.ndarray, x: int, y: int, width: int, height: int, opacity: float = 0.7) -> np.ndarray:
    """With a white logo of bars in a box."""
    bars = ((np.arange(width) // 4) % 2 == 0)[None, :, None] & np.ones((height, 1, 1), bool)
    part = frames[:, y : y + height, x : x + width]
    shown = np.where(bars, part * (1 - opacity) + 255 * opacity, part)
    out = frames.copy()
    out[:, y : y + height, x : x + width] = shown.astype(np.uint8)
    return out


def work_through(stage: Stage, library: Library, worker: Worker | None = None) -> list[dict]:
    """The rows of all items of a stage, one after the other in this process; they are written into the library."""
    worker = worker or stage.open(library)
    rows: list[dict] = []
    outcomes = []
    for task in stage.tasks(library):
        found = worker(task.given)
        rows += found
        outcomes.append(
            {"id": task.id, "status": "done", "reason": "", "attempts": 1, "seconds": 0.0, "rows": len(found)}
        )
    library.table(stage.name).write(rows, outcomes)
    return rows


def opened_library(root, stages: Sequence[Stage]) -> Library:
    """A library in a folder, with the tables of the stages."""
    library = Library(root)
    for stage in stages:
        library = library.with_stage(stage.name, stage.schema, dict(stage.decides()), stage.after)
    return library
