"""What a cache can be made of: a folder of clips, a list of them, or the toy world."""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from lcv_jax.data.images import as_frames, read_image, resize_lanczos
from lcv_jax.data.sizes import Sizes
from lcv_jax.data.toy import Form, ToySource
from lcv_jax.data.video import probe, stream_video
from lcv_jax.errors import InputError

TOY = "toy:"
CAPTIONS = "captions.jsonl"
VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_LANGUAGES = ("en", "zh")


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """frames: (F, H, W, 3) uint8, of a size and length that can be encoded. captions: by name. low: the same clip as it
    is before refinement (data/pairs.py), (F', h, w, 3) uint8, if that is wanted."""

    key: str
    frames: np.ndarray
    captions: Mapping[str, str]
    low: np.ndarray | None = None


class Source(Protocol):
    """Clips by number. name: what the index says of it. A clip that cannot be used raises InputError, others do not."""

    name: str

    def __len__(self) -> int: ...

    def key(self, number: int) -> str: ...

    def __getitem__(self, number: int) -> Item: ...


@dataclasses.dataclass(frozen=True)
class Clips:
    """Files with captions. lengths: of clips in frames; each gets the longest that it has, an image 1. fps: frames a
    second. Clips begin where their files do."""

    name: str
    files: tuple[pathlib.Path, ...]
    captions: tuple[Mapping[str, str], ...]
    sizes: Sizes
    lengths: tuple[int, ...]
    fps: int

    def __len__(self) -> int:
        return len(self.files)

    def key(self, number: int) -> str:
        return self.files[number].name

    def __getitem__(self, number: int) -> Item:
        path = self.files[number]
        frames = self._image(path) if path.suffix.lower() in IMAGES else self._video(path)
        return Item(self.key(number), frames, self.captions[number])

    def _image(self, path: pathlib.Path) -> np.ndarray:
        frames = as_frames(read_image(path))
        return resize_lanczos(frames, self.sizes.nearest(*frames.shape[1:3]))

    def _video(self, path: pathlib.Path) -> np.ndarray:
        info = probe(path)
        size = self.sizes.nearest(info.height, info.width)
        stream = stream_video(path, fps=Fraction(self.fps), size=size)
        frames = list(itertools.islice(stream, max(self.lengths)))
        fitting = [length for length in self.lengths if length <= len(frames)]
        if not fitting:
            raise InputError(
                f"video {path}: has {len(frames)} frames at {self.fps} a second, fewer than {self.lengths}"
            )
        return np.stack(frames[: max(fitting)])


@dataclasses.dataclass(frozen=True)
class Toy:
    """The toy world's clips."""

    name: str
    clips: ToySource

    def __len__(self) -> int:
        return len(self.clips)

    def key(self, number: int) -> str:
        return f"{self.clips.split}-{self.clips.seed}-{number}"

    def __getitem__(self, number: int) -> Item:
        record = self.clips[number]
        captions = {language: record[f"caption_{language}"] for language in _LANGUAGES}
        return Item(record["key"], record["video"], captions)


def open_clips(
    place: str,
    sizes: Sizes,
    lengths: Sequence[int],
    fps: int,
    untold: Mapping[str, str] | None = None,
    times: int = 1,
) -> Clips:
    """A folder or a list of clips.

    A list, and captions.jsonl in a folder, has a JSON object a line: "file", relative to it, and "caption", or
    "captions" by name, or "en" and "zh". In a folder without it the caption of a.mp4 stands in a.txt beside it.
    untold: the captions of files that have none there; None refuses them. times: as many frames, at as many times the
    rate. Raises InputError where there are no clips, no captions, or lines that are not such.
    """
    path = pathlib.Path(place)
    listed = path if path.is_file() else path / CAPTIONS
    if listed.is_file():
        pairs = [_listed(listed, number, line) for number, line in enumerate(_lines(listed), 1) if line.strip()]
    elif path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in (*VIDEOS, *IMAGES)]
        pairs = [(file, _beside(file, untold)) for file in files]
    else:
        raise InputError(
            f"--source {place}: no such folder or list: expected a folder of clips, a .jsonl, or toy:COUNT"
        )
    if not pairs:
        raise InputError(f"--source {place}: holds no clips, expected {', '.join((*VIDEOS, *IMAGES))}")
    if not lengths or any(length < 1 or length % 4 != 1 for length in lengths):
        raise InputError(f"--frames {tuple(lengths)}: expected numbers 4n + 1, such as 93")
    files, captions = zip(*pairs, strict=True)
    return Clips(str(path), files, captions, sizes, tuple(times * length for length in lengths), times * fps)


def open_toy(place: str, forms: Sequence[str], seed: int, split: str, objects: Sequence[int], times: int = 1) -> Toy:
    """toy:COUNT. forms: "HxWxF" or "HxWxF@WEIGHT". times: as many frames of the same motions."""
    count = place.removeprefix(TOY)
    if not count.isdigit():
        raise InputError(f"--source {place}: expected toy:COUNT, a number of clips")
    if not forms:
        raise InputError(f"--source {place}: no --forms, expected some such as 64x64x13 64x64x1@0.5")
    made = (parse_form(text) for text in forms)
    made = tuple(dataclasses.replace(form, frames=times * form.frames) for form in made)
    return Toy(f"{place} {' '.join(forms)} {split}", ToySource(int(count), seed, made, tuple(objects), split))


def parse_form(text: str) -> Form:
    """Of "64x64x13", or with a weight "64x64x13@0.5"."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)(?:@(\d*\.?\d+))?", text)
    if not match:
        raise InputError(f"--forms {text!r}: expected HEIGHTxWIDTHxFRAMES, and @WEIGHT if it shall have one")
    return Form((int(match[1]), int(match[2])), int(match[3]), float(match[4] or 1))


def _lines(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); expected UTF-8 text, a JSON object a line") from error


def _listed(path: pathlib.Path, number: int, line: str) -> tuple[pathlib.Path, Mapping[str, str]]:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        told = None
    captions = _captions(told) if isinstance(told, dict) and isinstance(told.get("file"), str) else None
    if not captions:
        raise InputError(f'{path}, line {number}: expected a JSON object with "file" and "caption", "captions" or "en"')
    return path.parent / told["file"], captions


def _captions(told: Mapping[str, Any]) -> dict[str, str] | None:
    found = told.get("captions", {name: told[name] for name in ("caption", *_LANGUAGES) if name in told})
    texts = isinstance(found, dict) and all(isinstance(text, str) for text in found.values())
    return found if texts else None


def _beside(path: pathlib.Path, untold: Mapping[str, str] | None) -> Mapping[str, str]:
    side = path.with_suffix(".txt")
    if not side.is_file():
        if untold is not None:
            return untold
        raise InputError(f"{path}: has no caption: expected {side.name} beside it, or a {CAPTIONS} in the folder")
    return {"caption": "\n".join(_lines(side)).strip()}
