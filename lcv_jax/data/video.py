"""Reading video files: any container, codec, pixel format, orientation and frame rate that FFmpeg knows.

Frames come out as the viewer sees them: uint8 (F, H, W, 3) RGB, rotated as the display matrix says, with
square pixels, transparency over white. Files that do not say which YCbCr they hold are taken as BT.601,
FFmpeg's default. Audio is ignored. Writing is in `video_writer`.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
from collections.abc import Container, Iterable, Iterator
from fractions import Fraction
from typing import Any, TypeVar

import av
import av.stream
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from lcv_jax.data.files import Path
from lcv_jax.data.images import over_white, resize_lanczos
from lcv_jax.errors import InputError

Item = TypeVar("Item")
Matrix = tuple[int, int, int, int]

# Containers round timestamps, Matroska to milliseconds. A frame that starts this little after a moment, in
# seconds, counts as showing then.
TOLERANCE = Fraction(1, 500)
# A longer pause between two frames, in seconds, is taken for damaged timestamps.
LONGEST_PAUSE = 60
# A source up to this much faster or slower than asked for keeps its frames: 15.015 for 15 is not worth a skip.
SAME_RATE = Fraction(101, 100)
_UPRIGHT = (1, 0, 0, 1)
# Titles that are not UTF-8 are no reason to refuse a video; from version 19 on PyAV thinks so too and has no option.
_LENIENT = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a file says of its video.

    width, height: as displayed, after rotation and with square pixels. fps: average. frames, duration
    (seconds): as the container says, None where it does not; an edit list may show fewer frames. rotation:
    degrees clockwise from stored to displayed, 0, 90, 180 or 270. sar: sample aspect ratio of the stored pixels.
    """

    width: int
    height: int
    fps: Fraction
    frames: int | None
    duration: float | None
    rotation: int
    sar: Fraction
    codec: str


@dataclasses.dataclass(frozen=True)
class Clip:
    """frames: (F, H, W, 3) uint8. fps: frames per second."""

    frames: np.ndarray
    fps: Fraction


def probe(path: Path) -> VideoInfo:
    """Describes a video; decodes its first frame. Raises InputError as `read_video` does."""
    with opened(path) as (container, stream):
        frame, _ = _started(path, container, stream)
        matrix, sar = _matrix(frame), _sar(stream)
        height, width = frame.height, _square_width(frame, sar)
        if matrix[0] == 0:
            height, width = width, height
        duration = _seconds(stream.duration, stream.time_base) or _seconds(
            container.duration, Fraction(1, av.time_base)
        )
        return VideoInfo(
            width=width,
            height=height,
            fps=_rate(stream),
            frames=stream.frames or None,
            duration=duration,
            rotation=round(math.degrees(math.atan2(matrix[1], matrix[0]))) % 360,
            sar=sar,
            codec=stream.codec_context.name,
        )


def read_video(
    path: Path,
    *,
    fps: Fraction | float | None = None,
    last: int | None = None,
    size: tuple[int, int] | None = None,
) -> Clip:
    """Decodes a video, whole or its `last` frames (counted after resampling).

    fps: resample to this rate by timestamps, so that variable rates and the speed of what is seen are right:
    frame k is the one showing k / fps seconds after the first. A slower source repeats frames. (The official
    demos take every max(1, round(source fps / fps))-th frame; at 30 to 15 that is the same.) size: (H, W)
    that each frame is resized to as it is decoded, by Lanczos.

    Memory: the frames that are returned; with `last`, that many frames as the decoder made them besides.

    Raises InputError if the file is missing, not a video, has no video stream or no frames, or is damaged.
    A damaged file is refused even if some frames can be decoded; the message says how many.
    """
    _check_request(fps, last, size)
    with opened(path) as (container, stream):
        frames, pixels, rate = _shown(path, container, stream, fps, size)
        kept: collections.deque[Any] = collections.deque(maxlen=last)
        for frame in frames:
            # Converting costs more than decoding, so of the last frames only those that stay are converted.
            kept.append(frame if last is not None else pixels(frame))
        shown = [pixels(frame) for frame in kept] if last is not None else list(kept)
    if len(shapes := {frame.shape for frame in shown}) > 1:
        raise InputError(f"video {path}: its frames change size, {sorted(shapes)}; encode it again at one size")
    return Clip(np.stack(shown), rate)


def stream_video(
    path: Path,
    *,
    fps: Fraction | float | None = None,
    size: tuple[int, int] | None = None,
    only: Container[int] | None = None,
) -> Iterator[np.ndarray]:
    """The frames of `read_video` one by one, (H, W, 3) uint8, so that memory does not grow with length.

    only: numbers of the frames wanted; the others are decoded but not converted, which costs more.
    """
    _check_request(fps, None, size)
    with opened(path) as (container, stream):
        frames, pixels, _ = _shown(path, container, stream, fps, size)
        yield from (pixels(frame) for number, frame in enumerate(frames) if only is None or number in only)


class Still:
    """A decoded frame, whose pixels are made when they are asked for, which costs more than decoding.

    start: in seconds, as the file counts.
    """

    def __init__(self, start: Fraction, frame: av.VideoFrame, pixels: "_Pixels", small: "_Small"):
        self.start = start
        self._frame, self._pixels, self._small = frame, pixels, small

    def pixels(self) -> np.ndarray:
        """As `read_video` gives them, (H, W, 3) uint8."""
        return self._pixels(self._frame)

    def small(self, size: tuple[int, int]) -> np.ndarray:
        """At size (H, W) as displayed, by averages over areas, in one step and so many times faster than by Lanczos;
        (H, W, 3) uint8. Of one stream always the same size."""
        return self._small(self._frame, size)


def stream_timed(path: Path) -> Iterator[Still]:
    """All frames of a video with their timestamps, in order; memory does not grow with length.

    A frame without a timestamp starts one frame of the average rate after the one before. Raises InputError as
    `read_video` does, where timestamps jump by more than a minute, and where frames change size.
    """
    with opened(path) as (container, stream):
        first, frames = _started(path, container, stream)
        matrix, stored = _matrix(first), (first.width, first.height)
        pixels = _Pixels(_sar(stream), matrix, None, VideoReformatter())
        small = _Small(matrix, VideoReformatter())
        del first
        for start, frame in _timed(path, frames, 1 / _rate(stream)):
            if (frame.width, frame.height) != stored:
                raise InputError(
                    f"video {path}: its frames change size, {stored[0]} x {stored[1]} to {frame.width} x {frame.height}"
                    f" at {float(start):.1f} seconds; encode it again at one size"
                )
            yield Still(start, frame, pixels, small)


def read_metadata(path: Path) -> dict[str, Any]:
    """What `video_writer.write_video` stored beside the video; {} for files of other makers."""
    with opened(path) as (container, _):
        try:
            found = json.loads(container.metadata.get("comment", "{}"))
        except json.JSONDecodeError:
            return {}
        return found if isinstance(found, dict) else {}


def resample(timed: Iterable[tuple[Fraction, Item]], fps: Fraction, shown_last: Fraction) -> Iterator[Item]:
    """The item showing at k / fps seconds after the first item's start, for k = 0, 1, ... until the last
    one ends.

    timed: (start in seconds, item), in order. An item shows until the next one starts, the last for
    `shown_last` seconds. Starts are believed to `TOLERANCE`.
    """
    first, start, shown, k = None, None, None, 0
    for start, item in timed:
        if first is None:
            first = start
        while first + k / fps < start - TOLERANCE:
            yield shown
            k += 1
        shown = item
    if first is not None:
        while first + k / fps < start + shown_last - TOLERANCE:
            yield shown
            k += 1


def _shown(
    path: Path,
    container: av.container.InputContainer,
    stream: av.VideoStream,
    fps: Fraction | float | None,
    size: tuple[int, int] | None,
) -> tuple[Iterable[av.VideoFrame], "_Pixels", Fraction]:
    """The frames at the rate asked for, what makes pixels of them, and their rate."""
    rate = _rate(stream)
    first, frames = _started(path, container, stream)
    pixels = _Pixels(_sar(stream), _matrix(first), size, VideoReformatter())
    # The base rate is the coarsest that holds all timestamps: far above the average where frames come unevenly.
    if fps is not None and not (_near(rate, fps) and _near(stream.base_rate or rate, fps)):
        frames = resample(_timed(path, frames, 1 / rate), Fraction(fps), shown_last=1 / rate)
        rate = Fraction(fps)
    return frames, pixels, rate


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video's container and the stream to look at; raises InputError unless the file is a video."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"video {path}: no such file")
    try:
        container = av.open(str(path), **_LENIENT)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"video {path}: is not a readable video ({_reason(error)}); convert it to mp4") from error
    with container:
        cover = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & cover]
        picture = container.format.name == "image2" or container.format.name.endswith("_pipe")
        if not streams or picture:
            what = "is a picture" if picture else "has no video stream"
            raise InputError(f"video {path}: {what}; expected a video")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def _decoded(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """All frames in display order; raises InputError at the first damaged packet, or if some are missing."""
    packets = frames = 0
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise InputError(_damaged(path, frames, "a packet is incomplete"))
            packets += packet.size > 0
            for frame in packet.decode():
                frames += 1
                yield frame
    except av.FFmpegError as error:
        raise InputError(_damaged(path, frames, _reason(error))) from error
    # The index of an mp4 lists every packet; when the file was cut between two of them, nothing else tells.
    expected = len(stream.index_entries) if "mp4" in container.format.name else 0
    if packets < expected:
        raise InputError(_damaged(path, frames, f"{expected - packets} of {expected} packets are missing"))


def packets(path: Path, container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """All packets of an mp4 in the file's order, as they are; raises InputError at the first damaged or missing one."""
    count, expected = 0, len(stream.index_entries)
    try:
        for packet in container.demux(stream):
            if packet.size and not packet.is_corrupt:
                count += 1
                yield packet
    except av.FFmpegError as error:
        raise InputError(f"video {path}: is damaged after {count} packets ({_reason(error)})") from error
    if count < expected or not count:
        raise InputError(
            f"video {path}: is damaged, {expected - count} of {expected} packets are missing or incomplete"
        )


def _started(
    path: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[av.VideoFrame, Iterator[av.VideoFrame]]:
    """The first frame, and all frames, that one included."""
    frames = _decoded(path, container, stream)
    first = next(frames, None)
    if first is None:
        raise InputError(f"video {path}: holds no frames; expected at least one")
    return first, itertools.chain((first,), frames)


def _damaged(path: Path, frames: int, reason: str) -> str:
    return f"video {path}: is damaged after {frames} decoded frames ({reason}); copy or encode it again"


def _timed(path: Path, frames: Iterable[av.VideoFrame], step: Fraction) -> Iterator[tuple[Fraction, av.VideoFrame]]:
    """Frames with their start in seconds; one without a timestamp starts `step` after the one before."""
    start = None
    for number, frame in enumerate(frames):
        if frame.pts is not None and frame.time_base:
            found = frame.pts * frame.time_base
        else:
            found = Fraction(0) if start is None else start + step
        if start is not None and found > start + LONGEST_PAUSE:
            raise InputError(
                f"video {path}: timestamps jump by {float(found - start):.0f} seconds after frame {number}; "
                "cut it there or encode it again"
            )
        start = found
        yield start, frame


@dataclasses.dataclass(frozen=True)
class _Pixels:
    """Turns decoded frames into (H, W, 3) uint8 as displayed, of `size` (H, W) unless that is None.

    scaler: kept from frame to frame, because setting one up costs as much as a conversion.
    """

    sar: Fraction
    matrix: Matrix
    size: tuple[int, int] | None
    scaler: VideoReformatter

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        transparent = any(component.is_alpha for component in frame.format.components)
        converted = self.scaler.reformat(
            frame,
            # With a size the pixels need not be made square on the way.
            width=frame.width if self.size else _square_width(frame, self.sar),
            format="rgba" if transparent else "rgb24",
            interpolation=_SCALER,
        )
        pixels = converted.to_ndarray()
        pixels = _upright(over_white(pixels) if transparent else pixels, self.matrix)
        return resize_lanczos(pixels[None], self.size)[0] if self.size else np.ascontiguousarray(pixels)


@dataclasses.dataclass(frozen=True)
class _Small:
    """Turns decoded frames into (H, W, 3) uint8 as displayed, at a small size, which is swscale's work alone."""

    matrix: Matrix
    scaler: VideoReformatter

    def __call__(self, frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
        height, width = size if self.matrix[0] else size[::-1]
        transparent = any(component.is_alpha for component in frame.format.components)
        converted = self.scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgba" if transparent else "rgb24",
            interpolation=Interpolation.AREA,
        )
        pixels = converted.to_ndarray()
        return np.ascontiguousarray(_upright(over_white(pixels) if transparent else pixels, self.matrix))


def _upright(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Turns and flips pixels (H, W, 3): a stored x, y is displayed at a x + c y, b x + d y."""
    a, b, c, d = matrix
    if a == 0:
        pixels = pixels.transpose(1, 0, 2)
    across, down = (a, d) if a else (c, b)
    return pixels[::down, ::across]


def _matrix(frame: av.VideoFrame) -> Matrix:
    """The display matrix (a, b, c, d), rounded to quarter turns and flips: entries are -1, 0 or 1.

    For one frame of a video only: a frame whose side data was looked at refers to itself, and so lives
    until the garbage collector runs, which at 4K came to a gigabyte in 60 frames.
    """
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return _UPRIGHT
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(data), np.int32)[:5])
    if abs(a) + abs(d) < abs(b) + abs(c):
        return 0, (1 if b > 0 else -1), (1 if c > 0 else -1), 0
    return (1 if a >= 0 else -1), 0, 0, (1 if d >= 0 else -1)


def _sar(stream: av.VideoStream) -> Fraction:
    return stream.sample_aspect_ratio or Fraction(1)


def _square_width(frame: av.VideoFrame, sar: Fraction) -> int:
    return max(1, round(frame.width * sar))


def _rate(stream: av.VideoStream) -> Fraction:
    """Average frames per second; 25 for a stream that does not say, such as one of a single frame."""
    return stream.average_rate or stream.guessed_rate or Fraction(25)


def _near(rate: Fraction, fps: Fraction | float) -> bool:
    return 1 / SAME_RATE <= rate / Fraction(fps) <= SAME_RATE


def _seconds(duration: int | None, time_base: Fraction | None) -> float | None:
    return float(duration * time_base) if duration and time_base else None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _check_request(fps: Fraction | float | None, last: int | None, size: tuple[int, int] | None) -> None:
    if fps is not None and not 0 < fps < math.inf:
        raise InputError(f"{fps=}: expected a positive number of frames per second")
    if last is not None and last < 1:
        raise InputError(f"{last=}: expected at least 1")
    if size is not None and min(size) < 1:
        raise InputError(f"{size=}: expected a positive height and width")
