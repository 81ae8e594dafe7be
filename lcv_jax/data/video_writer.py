"""Writing and joining mp4 files: H.264, 4:2:0, BT.709. The same frames and settings give the same bytes."""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

from lcv_jax.data.files import Path, check_writable, replacing, unwritable
from lcv_jax.data.video import opened, packets
from lcv_jax.errors import InputError

_AVCOL_SPC_BT709 = 1
_SCALER = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


def write_video(
    path: Path,
    frames: np.ndarray | Iterable[np.ndarray],
    fps: Fraction | float,
    metadata: Mapping[str, Any] | None = None,
    *,
    crf: int = 18,
) -> None:
    """Encodes uint8 frames (H, W, 3), RGB, an array (F, H, W, 3) or one by one, into `path`, an .mp4.

    fps: exact as a Fraction or an int; a float becomes the nearest fraction with a denominator up to 1001,
    so that 29.97 is 2997/100; pass Fraction(30000, 1001) where that is meant. metadata: anything JSON can
    hold, read back by `video.read_metadata`. crf: x264's quality, 0 (lossless but for the colours) to 51;
    18 shows no loss.

    The file appears under its name when it is complete, its index in front, so that players can stream it.
    Raises InputError on odd sizes (4:2:0 halves both), other dtypes or shapes, no frames, and where nothing
    can be written.
    """
    rate = Fraction(fps).limit_denominator(1001)
    if rate <= 0:
        raise InputError(f"{fps=}: expected a positive number of frames per second")
    if not 0 <= crf <= 51:
        raise InputError(f"{crf=}: expected 0 to 51")
    path = check_writable(path, ".mp4")
    checked = _checked(frames)
    first = next(checked, None)
    if first is None:
        raise InputError(f"video {path}: no frames to write; expected at least one")
    with _writing(path, metadata) as file:
        stream = _stream(file, rate, first.shape, crf)
        for number, pixels in enumerate(itertools.chain((first,), checked)):
            _mux(path, file, stream.encode(_frame(pixels, number)))
        _mux(path, file, stream.encode(None))


def join_videos(paths: Sequence[Path], path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Puts videos that `write_video` wrote one behind the other into `path`, an .mp4, without encoding again.

    The packets are copied, so pixels stay as they are; frame k of the whole shows at k / fps seconds. Memory does not
    grow with length, and the same files give the same bytes. Raises InputError on no videos, damaged ones, ones whose
    size, rate or encoding is not the first one's, and where nothing can be written.
    """
    if not paths:
        raise InputError(f"video {path}: no videos to join; expected at least one")
    path = check_writable(path, ".mp4")
    start, decoded = 0, itertools.count(-max(_decoded_ahead(source) for source in paths))
    with _writing(path, metadata) as file, opened(paths[0]) as (_, like):
        rate = like.average_rate
        stream = file.add_stream_from_template(like)
        stream.time_base = 1 / rate
        for source in paths:
            with opened(source) as (container, read):
                if _encoding(read) != _encoding(like):
                    raise InputError(f"video {source}: size, rate or encoding differ from {paths[0]}: encode it again")
                for packet in packets(source, container, read):
                    packet.pts = start + round(packet.pts * packet.time_base * rate)
                    packet.dts, packet.duration, packet.time_base = next(decoded), 1, 1 / rate
                    packet.stream = stream
                    _mux(path, file, packet)
                start += read.frames


def _decoded_ahead(path: Path) -> int:
    """Frames between the decoding and the showing of a video's first one, because some refer to later ones."""
    with opened(path) as (container, stream):
        first = next(packets(path, container, stream))
        return round((first.pts - first.dts) * first.time_base * stream.average_rate)


def _encoding(stream: av.VideoStream) -> tuple[Any, ...]:
    """What must be the same for one decoder to go on from one video to the next."""
    context = stream.codec_context
    return context.name, context.width, context.height, context.pix_fmt, context.extradata, stream.average_rate


@contextlib.contextmanager
def _writing(path: Path, metadata: Mapping[str, Any] | None) -> Iterator[av.container.OutputContainer]:
    """A file to mux into that becomes `path` when the block ends."""
    with (
        replacing(path) as aside,
        av.open(str(aside), "w", format="mp4", options={"movflags": "+faststart"}) as file,
    ):
        if metadata is not None:
            file.metadata["comment"] = json.dumps(metadata, ensure_ascii=False)
        yield file
        try:
            file.close()
        except OSError as error:
            raise unwritable(path, error) from error


def _mux(path: Path, file: av.container.OutputContainer, data: av.Packet | Sequence[av.Packet]) -> None:
    try:
        file.mux(data)
    except OSError as error:
        raise unwritable(path, error) from error


def _checked(frames: np.ndarray | Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The frames one by one, each a contiguous uint8 (H, W, 3) of the first one's size, both sides even."""
    shape = None
    for number, frame in enumerate(frames):
        frame = np.asarray(frame)
        shape = shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3:
            raise InputError(
                f"frame {number}: shape {frame.shape}, dtype {frame.dtype}; expected uint8 (height, width, 3)"
            )
        if frame.shape != shape:
            raise InputError(f"frame {number}: shape {frame.shape}, expected {shape} like the first")
        if frame.shape[0] % 2 or frame.shape[1] % 2 or not frame.size:
            raise InputError(f"frame {number}: is {shape[0]} x {shape[1]}, expected even sides: crop or resize it")
        yield np.ascontiguousarray(frame)


def _stream(file: av.container.OutputContainer, rate: Fraction, shape: tuple[int, ...], crf: int) -> av.VideoStream:
    stream = file.add_stream("libx264", rate=rate)
    stream.height, stream.width = shape[:2]
    stream.pix_fmt = "yuv420p"
    # x264's macroblock tree gives other bytes, and visibly other pixels, from one write of the same frames to the next.
    stream.options = {"crf": str(crf), "preset": "medium", "x264-params": "mbtree=0"}
    context = stream.codec_context
    context.thread_count = 1  # with more, the bytes depend on their number
    context.colorspace = _AVCOL_SPC_BT709
    context.color_range = ColorRange.MPEG
    context.color_primaries = ColorPrimaries.BT709
    context.color_trc = ColorTrc.BT709
    return stream


def _frame(pixels: np.ndarray, number: int) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_SCALER,
    )
    frame.pts = number
    return frame
