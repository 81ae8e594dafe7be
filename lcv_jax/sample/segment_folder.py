"""The finished segments of a long video, on disk, so that a run that is killed goes on behind the last of them.

NAME.segments/ holds segment-000.mp4, segment-001.mp4, ..., each a whole video with its settings inside, and tail-K.npz,
the uint8 frames that the next one needs, of the last finished segment K. A segment's video is written first, then its
tail, then the tail before goes, every file under its name only when it is complete: at any moment the newest tail tells
what is finished.
"""

import dataclasses
import logging
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lcv_jax.data import files, video, video_writer
from lcv_jax.errors import InputError
from lcv_jax.sample.long_video import Segment, Tail

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class SegmentFolder:
    """path: of the folder, which `add` makes."""

    path: pathlib.Path

    @classmethod
    def beside(cls, out: pathlib.Path) -> "SegmentFolder":
        """The folder of the segments of the video `out`."""
        return cls(out.with_suffix(".segments"))

    def check_writable(self) -> None:
        """Raises InputError if no segment could be written now."""
        files.check_writable(self._video(0), ".mp4")

    def finished(self) -> int:
        """How many segments are; raises InputError if one of them is gone."""
        tails = (re.fullmatch(r"tail-(\d+)\.npz", path.name) for path in self.path.glob("tail-*.npz"))
        count = 1 + max((int(found[1]) for found in tails if found), default=-1)
        for index in range(count):
            if not self._video(index).is_file():
                raise InputError(f"{self._video(index)} is missing: delete the folder and begin again")
        return count

    def check_same(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Raises InputError unless the finished segments were made with these settings, one for each segment."""
        for index in range(min(self.finished(), len(settings))):
            found, given = video.read_metadata(self._video(index)), settings[index]
            for name in sorted(given.keys() - {"task", "versions"}):
                if found.get(name) != given[name]:
                    raise InputError(
                        f"segment {index} in {self.path} was made with --{name.replace('_', '-')} {found.get(name)!r}, "
                        f"now it is {given[name]!r}: give the same, or delete the folder and begin again"
                    )
            if found.get("versions") != given["versions"]:
                logger.warning("segment %d was made by %s: its bits may differ", index, found.get("versions"))

    def tail(self) -> Tail | None:
        """What the next segment starts from; None for the first."""
        index = self.finished() - 1
        if index < 0:
            return None
        try:
            with np.load(self._tail(index), allow_pickle=False) as arrays:
                return Tail(index, **{name: arrays[name] for name in arrays})
        except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(f"{self._tail(index)}: is damaged ({error}); delete the folder and begin again") from error

    def add(self, segment: Segment, fps: Fraction, settings: Mapping[str, Any]) -> pathlib.Path:
        """Writes one more segment; returns its video's path."""
        path, tail = self._video(segment.index), segment.tail
        video_writer.write_video(path, segment.frames[0], fps, settings)
        kept = {"frames": tail.frames} | ({} if tail.refined is None else {"refined": tail.refined})
        with files.replacing(self._tail(tail.index)) as aside, aside.open("wb") as file:
            try:
                np.savez_compressed(file, **kept)
            except OSError as error:
                raise files.unwritable(self._tail(tail.index), error) from error
        self._tail(tail.index - 1).unlink(missing_ok=True)
        return path

    def join(self, count: int, out: pathlib.Path, settings: Mapping[str, Any]) -> None:
        """Puts the first `count` segments one behind the other into `out`. The folder stays."""
        video_writer.join_videos([self._video(index) for index in range(count)], out, settings)
        for left in self.path.glob(".*.part"):  # by runs that were killed
            left.unlink(missing_ok=True)

    def _video(self, index: int) -> pathlib.Path:
        return self.path / f"segment-{index:03d}.mp4"

    def _tail(self, index: int) -> pathlib.Path:
        return self.path / f"tail-{index:03d}.npz"
