"""Batches of pixels for training an autoencoder: clips from files or the toy world, windows of them, resumable.

Like the loader of latents (data/loader.py) a batch is a function of the settings and its position.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.data.batching import Stream, generator
from lcv_jax.data.read_ahead import ReadAhead
from lcv_jax.data.sizes import Sizes
from lcv_jax.data.sources import TOY, Source, open_clips, open_toy, parse_form
from lcv_jax.errors import InputError

_WINDOW, _INSTEAD = 3, 4  # what random numbers are for


@dataclasses.dataclass(frozen=True)
class ClipSet:
    """Clips of one size.

    source: a folder of clips or a list, as lcv_jax.data.cache takes them, but captions are not needed; or toy:COUNT.
    form: HEIGHTxWIDTHxFRAMES that they are brought to or drawn in. window: the height and width cut out of each clip at
    a random place, None is all.
    batch: clips of a batch, all hosts. weight: of the set, its share of the batches.
    """

    source: str
    form: str
    window: tuple[int, int] | None = None
    batch: int = 8
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """What decides the batches. seed: of all that is drawn. fps: of files. max_damaged: clips; more end the run.
    threads, ahead: that read, and how many batches at most."""

    sets: tuple[ClipSet, ...]
    seed: int = 0
    fps: int = 15
    max_damaged: int = 100
    threads: int = 4
    ahead: int = 4


@dataclasses.dataclass(frozen=True, eq=False)
class HostClips:
    """This host's rows of one batch. frames: (b, F, H, W, 3) uint8. size: clips over all hosts. damaged: clips that
    others stand for. after: the position behind this batch."""

    frames: np.ndarray
    size: int
    damaged: tuple[str, ...]
    after: Mapping[str, int]


class ClipLoader(ReadAhead):
    """An endless source of `HostClips`; its position is the consumer's.

    factors: (time, space) that frames after the first and sides must divide by. rows: which of a batch's rows this host
    holds, by its size. Raises InputError for sets that are empty, or do not fit.
    """

    def __init__(
        self,
        settings: ClipSettings,
        factors: tuple[int, int],
        *,
        rows: Callable[[int], Sequence[int]] = range,
    ):
        if not settings.sets:
            raise InputError("data.sets: none given, expected at least one set of clips")
        for number, one in enumerate(settings.sets):
            _check(one, f"data.sets.{number}", factors)
        self.settings, self._rows = settings, rows
        self._sources = [_open(one, settings) for one in settings.sets]
        total = sum(one.weight for one in settings.sets)
        streams = [
            Stream(str(i), i, form_of(one), np.arange(len(source)), one.batch, one.weight / total)
            for i, (one, source) in enumerate(zip(settings.sets, self._sources, strict=True))
        ]
        super().__init__(streams, "clips", settings.max_damaged, settings.threads, settings.ahead)

    def get_state(self) -> dict[str, Any]:
        """Of JSON's types."""
        return {"batches": dict(self.position), "damaged": self.damaged, "clips": self._clips()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues behind what was consumed. Raises InputError if the sets have other clips than then."""
        now = self._clips()
        if set(state) != {"batches", "damaged", "clips"} or state["clips"] != now:
            raise InputError(
                f"the checkpoint's position is in other clips: {state.get('clips')} of each set then, {now} now; give "
                "the same, or start a new run"
            )
        self.damaged = state["damaged"]
        self.begin([state["batches"][stream.name] for stream in self.streams])

    def _clips(self) -> list[int | str]:
        """Of each set what its clips are: of the toy world, which the settings tell, how many; of files also a checksum
        of their names, in order."""
        return [
            len(source) if one.source.startswith(TOY) else f"{len(source)} files {_checksum(source):08x}"
            for one, source in zip(self.settings.sets, self._sources, strict=True)
        ]

    def read(self, stream: Stream, number: int, at: int, after: Mapping[str, int]) -> HostClips:
        """Batch `number` of the stream, wherever it stands in the run."""
        del at
        drawn = [self._clip(stream, number * stream.batch + row) for row in self._rows(stream.batch)]
        frames, damaged = zip(*drawn, strict=True)
        return HostClips(np.stack(frames), stream.batch, tuple(name for names in damaged for name in names), after)

    def _clip(self, stream: Stream, position: int) -> tuple[np.ndarray, list[str]]:
        one, seed = self.settings.sets[stream.source], self.settings.seed
        entropy = (zlib.crc32(stream.name.encode()), position)
        rng, read = generator(seed, _INSTEAD, *entropy), functools.partial(self._frames, stream)
        frames, damaged = self.read_or_another(stream, stream.record(position, seed), rng, read, InputError)
        if one.window is None:
            return frames, damaged
        places = generator(seed, _WINDOW, *entropy).random(2)
        spare = np.array(frames.shape[1:3]) - one.window
        y, x = (places * (spare + 1)).astype(int)
        return frames[:, y : y + one.window[0], x : x + one.window[1]], damaged

    def _frames(self, stream: Stream, number: int) -> np.ndarray:
        source = self._sources[stream.source]
        frames = source[number].frames
        if frames.shape[:3] != stream.form:
            raise InputError(
                f"{source.key(number)}: is {frames.shape[:3]} frames, height, width, expected {stream.form}"
            )
        return frames


def form_of(one: ClipSet) -> tuple[int, int, int]:
    """(frames, height, width) of a set's clips."""
    form = parse_form(one.form)
    return form.frames, *form.size


def _checksum(source: Source) -> int:
    return zlib.crc32("\n".join(source.key(number) for number in range(len(source))).encode())


def _check(one: ClipSet, where: str, factors: tuple[int, int]) -> None:
    if "@" in one.form:
        raise InputError(f"{where}: form={one.form!r}: expected HEIGHTxWIDTHxFRAMES alone; a set's share is its weight")
    try:
        frames, height, width = form_of(one)
    except InputError as error:
        raise InputError(f"{where}, form={one.form!r}: {error}") from error
    time, space = factors
    if one.window is not None and len(one.window) != 2:
        raise InputError(f"{where}: window={one.window}: expected a height and a width")
    sides = one.window or (height, width)
    if (frames - 1) % time or any(side % space or side < 1 for side in sides):
        raise InputError(
            f"{where}: clips of {frames} frames, {sides[0]}x{sides[1]}: expected {time}n + 1 frames and sides that "
            f"divide by {space}"
        )
    if sides[0] > height or sides[1] > width:
        raise InputError(f"{where}: window={one.window} is larger than the clips, {height}x{width}")
    if one.batch < 1 or not 0 < one.weight < float("inf"):
        raise InputError(f"{where}: batch={one.batch}, weight={one.weight}: expected at least 1, and a positive number")


def _open(one: ClipSet, settings: ClipSettings) -> Source:
    if one.source.startswith(TOY):
        source = open_toy(one.source, (one.form,), settings.seed, "train", (1, 2, 3))
    else:
        frames, height, width = form_of(one)
        source = open_clips(one.source, Sizes.of(f"{height}x{width}", 1), (frames,), settings.fps, untold={})
    if not len(source):
        raise InputError(f"{one.source}: expected at least one clip")
    return source
