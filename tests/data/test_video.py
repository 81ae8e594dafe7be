"""Videos: what is written is read back; timestamps, orientations, pixel formats and damage by hand-made files."""

import os
import resource
import wave
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.data.images import resize_lanczos
from lcv_jax.data.video import probe, read_metadata, read_video, resample, stream_video
from lcv_jax.data.video_writer import join_videos, write_video
from lcv_jax.errors import InputError


def numbered(count, height=16, width=32):
    """Flat frames whose gray level tells their number."""
    levels = (np.arange(count) * 10 % 256).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def numbers(frames):
    """The inverse of `numbered`, for lossy files."""
    return np.rint(frames.reshape(len(frames), -1).mean(-1) / 10).astype(int).tolist()


def smooth(count, height, width, seed=0):
    """Frames that compress well: blurred noise, drifting."""
    small = np.random.default_rng(seed).integers(0, 256, (3, 3, 1), np.uint8).repeat(3, -1) // (1, 2, 3)
    small = small.astype(np.uint8)
    large = np.asarray(PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC))
    return np.stack([np.roll(large, i, axis=1) for i in range(count)])


def encode(path, frames, *, times=None, codec="png", pix_fmt="rgb24", matrix=None, sar=None, container=None):
    """Writes frames at times in milliseconds, by default 40 ms apart; PNG in QuickTime is lossless RGB."""
    times = range(0, 40 * len(frames), 40) if times is None else times
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if sar is not None:
            stream.codec_context.sample_aspect_ratio = sar
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for time, pixels in zip(times, frames, strict=True):
            layout = "rgba" if pixels.shape[-1] == 4 else "rgb24"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=layout)
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(16, 40),
    st.integers(16, 40),
    st.sampled_from([15, 30, Fraction(30000, 1001), 12.5, 24]),
    st.integers(0, 100),
)
def test_written_is_read_back(tmp_path_factory, count, half_height, half_width, fps, seed):
    path = tmp_path_factory.mktemp("written") / "x.mp4"
    frames = smooth(count, 2 * half_height, 2 * half_width, seed)
    write_video(path, frames, fps, {"seed": seed})
    clip = read_video(path)
    assert clip.fps == Fraction(fps)
    assert clip.frames.dtype == np.uint8
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).mean() < 4
    info = probe(path)
    assert (info.height, info.width, info.frames, info.codec) == (*frames.shape[1:3], count, "h264")
    assert info.duration == pytest.approx(float(count / Fraction(fps)), abs=1e-3)
    assert (info.rotation, info.sar) == (0, 1)
    assert read_metadata(path) == {"seed": seed}


def test_colors_survive(tmp_path):
    colors = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (40, 120, 200)], np.uint8)
    frames = np.repeat(np.repeat(colors[None, None], 32, 1).repeat(16, 2), 2, 0)
    write_video(tmp_path / "x.mp4", frames, 15, crf=0)
    shown = read_video(tmp_path / "x.mp4").frames.astype(int)
    # The stripes' middles: 4:2:0 mixes the colours of neighbours.
    np.testing.assert_allclose(shown[:, :, 8::16], frames[:, :, 8::16], atol=3)
    with av.open(str(tmp_path / "x.mp4")) as file:
        context = file.streams.video[0].codec_context
        assert context.pix_fmt == "yuv420p"
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)


def test_same_input_same_bytes(tmp_path):
    frames = smooth(6, 48, 64)
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, iter(frames), 15, {"prompt": "猫", "steps": 50})
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert read_metadata(tmp_path / "a.mp4") == {"prompt": "猫", "steps": 50}
    write_video(tmp_path / "c.mp4", frames, 15, crf=40)
    assert (tmp_path / "c.mp4").stat().st_size < (tmp_path / "a.mp4").stat().st_size


def test_bytes_do_not_depend_on_what_was_written_before(tmp_path):
    rng = np.random.default_rng(0)

    def squares(height, width):
        few = rng.integers(0, 256, (5, height // 8, width // 8, 3), dtype=np.uint8)
        return np.tile(few.repeat(8, axis=1).repeat(8, axis=2), (3, 1, 1, 1))

    frames, written = squares(96, 192), set()
    for _ in range(6):
        write_video(tmp_path / "other.mp4", squares(64, 128), 15)
        held = np.ones(int(rng.integers(1_000, 3_000_000)), np.uint8)
        write_video(tmp_path / "x.mp4", frames, 15)
        written.add((tmp_path / "x.mp4").read_bytes())
        del held
    assert len(written) == 1


def test_index_stands_before_the_frames(tmp_path):
    write_video(tmp_path / "x.mp4", smooth(2, 16, 16), 15)
    data = (tmp_path / "x.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_a_failing_source_leaves_nothing(tmp_path):
    def frames():
        yield from numbered(3)
        raise KeyError("stop")

    with pytest.raises(KeyError):
        write_video(tmp_path / "x.mp4", frames(), 15)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "frames", "fps", "crf", "match"),
    [
        ("x.mp4", numbered(1), 0, 18, "fps=0: expected a positive"),
        ("x.mp4", numbered(1), 15, 52, "crf=52: expected 0 to 51"),
        ("x.avi", numbered(1), 15, 18, r"ends in \.mp4"),
        ("x.mp4", [], 15, 18, "no frames to write"),
        ("x.mp4", numbered(1, 15), 15, 18, "frame 0: is 15 x 32, expected even sides"),
        ("x.mp4", numbered(1).astype(np.float32), 15, 18, "frame 0: .* dtype float32; expected uint8"),
        ("x.mp4", [numbered(1)[0], numbered(1, 18)[0]], 15, 18, r"frame 1: shape \(18, 32, 3\), expected \(16"),
    ],
)
def test_write_refuses(tmp_path, name, frames, fps, crf, match):
    with pytest.raises(InputError, match=match):
        write_video(tmp_path / name, frames, fps, crf=crf)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fps", [15, Fraction(30000, 1001)])
def test_joined_videos_show_what_each_shows(tmp_path, fps):
    """Lengths with and without frames that refer to later ones, and one with several key frames."""
    counts = (9, 1, 300, 2, 5)
    paths = [tmp_path / f"{i}.mp4" for i in range(len(counts))]
    for seed, (path, count) in enumerate(zip(paths, counts, strict=True)):
        write_video(path, smooth(count, 32, 48, seed), fps)
    join_videos(paths, tmp_path / "x.mp4", {"prompt": "猫"})
    whole = read_video(tmp_path / "x.mp4")
    assert whole.fps == fps
    np.testing.assert_array_equal(whole.frames, np.concatenate([read_video(path).frames for path in paths]))
    with av.open(str(tmp_path / "x.mp4")) as file:
        stream = file.streams.video[0]
        shown = [frame.pts * frame.time_base for frame in file.decode(stream)]
        assert (stream.frames, stream.duration * stream.time_base) == (sum(counts), sum(counts) / Fraction(fps))
        assert stream.color_range == 1
    assert shown == [i / Fraction(fps) for i in range(sum(counts))]
    assert read_metadata(tmp_path / "x.mp4") == {"prompt": "猫"}
    first = (tmp_path / "x.mp4").read_bytes()
    assert first.index(b"moov") < first.index(b"mdat")
    join_videos(paths, tmp_path / "x.mp4", {"prompt": "猫"})
    assert first == (tmp_path / "x.mp4").read_bytes()


def test_join_refuses(tmp_path):
    good, out = tmp_path / "good.mp4", tmp_path / "x.mp4"
    write_video(good, smooth(30, 32, 48), 15)
    for name, frames, fps in [("size", smooth(3, 32, 32), 15), ("rate", smooth(3, 32, 48), 30)]:
        write_video(tmp_path / f"{name}.mp4", frames, fps)
        with pytest.raises(InputError, match=rf"{name}\.mp4: size, rate or encoding differ from .*good\.mp4"):
            join_videos([good, tmp_path / f"{name}.mp4"], out)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.mp4: is damaged"):
        join_videos([good, cut], out)
    with pytest.raises(InputError, match="no videos to join"):
        join_videos([], out)
    with pytest.raises(InputError, match=r"ends in \.mp4"):
        join_videos([good], tmp_path / "x.avi")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_full_disk_is_an_input_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(InputError, match=r"x\.mp4: cannot be written \(File too large\)"):
            write_video(tmp_path / "x.mp4", np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8), 15)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_half_the_rate_is_every_second_frame(tmp_path):
    write_video(tmp_path / "x.mp4", numbered(11), 30, crf=1)
    clip = read_video(tmp_path / "x.mp4", fps=15)
    assert clip.fps == 15
    assert numbers(clip.frames) == [0, 2, 4, 6, 8, 10]
    assert numbers(read_video(tmp_path / "x.mp4", fps=15, last=2).frames) == [8, 10]
    assert numbers(read_video(tmp_path / "x.mp4", last=100).frames) == list(range(11))


@pytest.mark.parametrize("fps", [29.8, 30, 30.2])
def test_nearly_the_same_rate_keeps_its_frames(tmp_path, fps):
    write_video(tmp_path / "x.mp4", numbered(5), 30, crf=1)
    clip = read_video(tmp_path / "x.mp4", fps=fps)
    assert clip.fps == 30
    assert numbers(clip.frames) == [0, 1, 2, 3, 4]


def test_a_slower_source_repeats_frames(tmp_path):
    write_video(tmp_path / "x.mp4", numbered(4), 10, crf=1)
    clip = read_video(tmp_path / "x.mp4", fps=15)
    assert clip.fps == 15
    assert numbers(clip.frames) == [0, 0, 1, 2, 2, 3]


def test_a_stream_is_the_same_frames(tmp_path):
    write_video(tmp_path / "x.mp4", numbered(9), 30, crf=1)
    clip = read_video(tmp_path / "x.mp4", fps=15, size=(24, 32))
    streamed = list(stream_video(tmp_path / "x.mp4", fps=15, size=(24, 32)))
    np.testing.assert_array_equal(streamed, clip.frames)
    some = list(stream_video(tmp_path / "x.mp4", fps=15, size=(24, 32), only={1, 3}))
    np.testing.assert_array_equal(some, clip.frames[[1, 3]])


@pytest.mark.parametrize("suffix", ["mov", "mkv"])
def test_variable_rate_follows_the_timestamps(tmp_path, suffix):
    # Starts in ms; at 10 per second the moments are 0, 100, 200, ... from the first frame.
    times = [500, 520, 540, 601, 640, 660, 680, 690, 695, 900, 910, 920, 930, 940]
    codec, pix_fmt = ("png", "rgb24") if suffix == "mov" else ("ffv1", "bgr0")
    path = encode(tmp_path / f"x.{suffix}", numbered(len(times)), times=times, codec=codec, pix_fmt=pix_fmt)
    clip = read_video(path, fps=10)
    assert clip.fps == 10
    # 0 ms: frame 0; 100: frame 3, which starts 1 ms later; 200 and 300: frame 8 until frame 9 starts at 400.
    assert numbers(clip.frames)[:5] == [0, 3, 8, 8, 9]
    assert len(clip.frames) == 5


def test_uneven_frames_are_resampled_even_if_their_average_fits(tmp_path):
    # 100 ms, 33 ms, 100 ms, ...: 15 a second on average, but at no moment k / 15 does an odd frame show.
    times = [round(400 * n / 6) + 33 * (n % 2) for n in range(200)]
    path = encode(tmp_path / "x.mov", numbered(200), times=times)
    assert abs(probe(path).fps - 15) < 0.1
    assert numbers(read_video(path, fps=15).frames)[:6] == [0, 0, 2, 2, 4, 4]


def test_rounded_timestamps_are_not_uneven(tmp_path):
    times = [round(1000 * n / 15) for n in range(25)]
    path = encode(tmp_path / "x.mov", numbered(25), times=times)
    assert numbers(read_video(path, fps=15).frames) == list(range(25))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=0, max_size=30), st.sampled_from([5, 15, 24, 60]))
def test_resample_shows_what_was_showing(gaps, fps):
    starts = [Fraction(int(ms), 1000) for ms in np.cumsum([0, *gaps])]
    chosen = list(resample(zip(starts, starts, strict=True), Fraction(fps), shown_last=Fraction(1, 10)))
    end = starts[-1] + Fraction(1, 10)
    for k, start in enumerate(chosen):
        moment = Fraction(k, fps)
        assert start == max(s for s in starts if s <= moment + Fraction(1, 500))
    assert abs(len(chosen) - end * fps) <= 1
    assert list(resample([], Fraction(fps), Fraction(1))) == []


ORIENTATIONS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0)]
FLIPS = [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0)]


@pytest.mark.parametrize("orientation", ORIENTATIONS + FLIPS)
def test_display_matrix_is_applied(tmp_path, orientation):
    a, b, c, d = orientation
    stored = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    y, x = np.mgrid[:16, :24]
    across, down = a * x + c * y, b * x + d * y
    across, down = across - across.min(), down - down.min()
    shown = np.zeros((down.max() + 1, across.max() + 1, 3), np.uint8)
    shown[down, across] = stored
    one = 1 << 16
    path = encode(tmp_path / "x.mov", [stored], matrix=[a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30])
    np.testing.assert_array_equal(read_video(path).frames[0], shown)
    info = probe(path)
    assert (info.height, info.width) == shown.shape[:2]
    if orientation in ORIENTATIONS:
        assert info.rotation == 90 * ORIENTATIONS.index(orientation)
    resized = read_video(path, size=(10, 12)).frames
    np.testing.assert_array_equal(resized, resize_lanczos(shown[None], (10, 12)))


def test_pixels_become_square(tmp_path):
    stored = smooth(2, 24, 16)
    path = encode(tmp_path / "x.mov", stored, sar=Fraction(3, 2))
    info = probe(path)
    assert (info.height, info.width, info.sar) == (24, 24, Fraction(3, 2))
    clip = read_video(path)
    assert clip.frames.shape == (2, 24, 24, 3)
    expected = resize_lanczos(stored, (24, 24))
    assert np.abs(clip.frames.astype(int) - expected).mean() < 4


@pytest.mark.parametrize(
    "pix_fmt", ["yuv444p", "yuv422p10le", "yuv420p12le", "yuv410p", "gray", "gbrp10le", "gray16le"]
)
def test_pixel_formats(tmp_path, pix_fmt):
    frames = numbered(3)
    path = encode(tmp_path / "x.mkv", frames, codec="ffv1", pix_fmt=pix_fmt)
    np.testing.assert_allclose(read_video(path).frames.astype(int), frames, atol=2)


def test_transparency_shows_white(tmp_path):
    frame = np.zeros((16, 32, 4), np.uint8)
    frame[:, 16:] = (10, 20, 30, 255)
    shown = read_video(encode(tmp_path / "x.mov", [frame], pix_fmt="rgba")).frames[0]
    assert shown[5, 5].tolist() == [255, 255, 255]
    assert shown[5, 20].tolist() == [10, 20, 30]


def test_metadata_of_others_is_empty(tmp_path):
    path = encode(tmp_path / "x.mov", numbered(1))
    assert read_metadata(path) == {}
    for comment in ("not json", "[1]"):
        with av.open(str(tmp_path / "y.mp4"), "w") as file:
            file.metadata["comment"] = comment
            stream = file.add_stream("libx264", rate=15)
            stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
            file.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(1, 16, 16)[0]).reformat(format="yuv420p")))
            file.mux(stream.encode(None))
        assert read_metadata(tmp_path / "y.mp4") == {}


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """60 frames of noise: 130 kB, so that most of the file is picture."""
    path = tmp_path_factory.mktemp("noise") / "noise.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8), 15)
    return path


def test_damaged_in_the_middle(noise, tmp_path):
    data, path = noise.read_bytes(), tmp_path / "x.mp4"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"x\.mp4: is damaged after 2\d decoded frames"):
        read_video(path)
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(InputError, match="is damaged after 2"):
        read_video(path, last=3)


def test_cut_between_two_packets(noise, tmp_path):
    with av.open(str(noise)) as file:
        positions = sorted(packet.pos for packet in file.demux(video=0) if packet.size)
    (tmp_path / "x.mp4").write_bytes(noise.read_bytes()[: positions[40]])
    with pytest.raises(InputError, match="is damaged after"):
        read_video(tmp_path / "x.mp4")


def test_not_a_video(noise, tmp_path):
    with pytest.raises(InputError, match=r"none\.mp4: no such file"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(InputError, match="no such file"):
        probe(tmp_path)
    cases = {"text.mp4": b"not a video", "empty.mp4": b"", "head.mp4": noise.read_bytes()[:600]}
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: is not a readable video"):
            read_video(tmp_path / name)
    PIL.Image.new("RGB", (16, 16)).save(tmp_path / "picture.png")
    with pytest.raises(InputError, match="is a picture; expected a video"):
        read_video(tmp_path / "picture.png")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(InputError, match="has no video stream"):
        read_video(tmp_path / "sound.wav")


def test_no_frames(tmp_path):
    encode(tmp_path / "x.mov", [numbered(1)[0]])
    data = (tmp_path / "x.mov").read_bytes()
    # The sample tables of QuickTime say that there are no samples: count 0 in stsz, stts, stsc, stco.
    for box, skip in ((b"stsz", 12), (b"stts", 8), (b"stsc", 8), (b"stco", 8)):
        at = data.index(box) + skip
        data = data[:at] + bytes(4) + data[at + 4 :]
    (tmp_path / "x.mov").write_bytes(data)
    for read in (read_video, probe):
        with pytest.raises(InputError, match="holds no frames"):
            read(tmp_path / "x.mov")


def test_timestamps_that_jump(tmp_path):
    path = encode(tmp_path / "x.mkv", numbered(3), times=[0, 40, 100_000], codec="ffv1", pix_fmt="bgr0")
    assert len(read_video(path).frames) == 3
    with pytest.raises(InputError, match="timestamps jump by 100 seconds after frame 2"):
        read_video(path, fps=0.01)


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        ({"fps": 0}, "fps=0: expected a positive"),
        ({"last": 0}, "last=0: expected at least 1"),
        ({"size": (0, 5)}, r"size=\(0, 5\): expected a positive"),
    ],
)
def test_bad_requests(noise, request_, match):
    with pytest.raises(InputError, match=match):
        read_video(noise, **request_)
