"""Frames with their timestamps, converted only when asked for."""

from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest

from lcv_jax.data.images import resize_lanczos
from lcv_jax.data.video import read_video, stream_timed
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError


def pictures(count, height=48, width=64):
    """Soft patches of colour, other ones in each frame."""
    few = np.random.default_rng(0).integers(0, 256, (count, 3, 4, 3), np.uint8)
    return np.stack(
        [np.asarray(PIL.Image.fromarray(one).resize((width, height), PIL.Image.Resampling.BICUBIC)) for one in few]
    )


def encode(path, frames, times, pix_fmt="rgb24", matrix=None, sar=None):
    """Lossless, in QuickTime, at times in milliseconds."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("png", rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for time, pixels in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=pix_fmt)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_frames_come_with_their_times(tmp_path):
    times = [500, 540, 600, 601, 1000]
    path = encode(tmp_path / "x.mov", pictures(5), times)
    found = [(still.start, still.pixels()) for still in stream_timed(path)]
    assert [start for start, _ in found] == [Fraction(time, 1000) for time in times]
    np.testing.assert_array_equal(np.stack([pixels for _, pixels in found]), read_video(path).frames)


def test_small_ones_are_averages(tmp_path):
    frames = pictures(3)
    path = encode(tmp_path / "x.mov", frames, [0, 40, 80])
    small = np.stack([still.small((12, 16)) for still in stream_timed(path)])
    exact = frames.reshape(3, 12, 4, 16, 4, 3).mean((2, 4))
    np.testing.assert_allclose(small, exact, atol=2)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1)])
def test_small_ones_are_upright_and_square(tmp_path, matrix):
    a, b, c, d = (value << 16 for value in matrix)
    path = encode(tmp_path / "x.mov", pictures(1), [0], matrix=[a, b, 0, c, d, 0, 0, 0, 1 << 30], sar=Fraction(3, 2))
    still = next(stream_timed(path))
    large = still.pixels()
    assert sorted(large.shape) == [3, 48, 96]
    size = (large.shape[0] // 4, large.shape[1] // 4)
    small = still.small(size)
    assert small.shape == (*size, 3)
    assert np.abs(small.astype(int) - resize_lanczos(large[None], size)[0]).mean() < 5


def test_small_ones_show_white_through(tmp_path):
    frame = np.zeros((16, 32, 4), np.uint8)
    frame[:, 16:] = (10, 20, 30, 255)
    still = next(stream_timed(encode(tmp_path / "x.mov", [frame], [0], pix_fmt="rgba")))
    small = still.small((4, 8))
    assert small[1, 1].tolist() == [255, 255, 255]
    assert small[1, 6].tolist() == [10, 20, 30]


def test_damage_and_changes_are_told(tmp_path):
    path = tmp_path / "x.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8), 15)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"x\.mp4: is damaged after 2\d decoded frames"):
        list(stream_timed(path))
    jumping = encode(tmp_path / "y.mov", pictures(3), [0, 40, 100_000])
    with pytest.raises(InputError, match="timestamps jump by 100 seconds after frame 2"):
        list(stream_timed(jumping))
    streams = [tmp_path / "small.h264", tmp_path / "large.h264"]
    for raw, size in zip(streams, (48, 64), strict=True):
        with av.open(str(raw), "w", format="h264") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.height, stream.width, stream.pix_fmt = size, 64, "yuv420p"
            for pixels in pictures(3, size):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels).reformat(format="yuv420p")))
            file.mux(stream.encode(None))
    (tmp_path / "both.h264").write_bytes(streams[0].read_bytes() + streams[1].read_bytes())
    with pytest.raises(InputError, match="its frames change size, 64 x 48 to 64 x 64 at"):
        list(stream_timed(tmp_path / "both.h264"))
