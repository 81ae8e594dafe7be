"""Images of every kind against hand-made ones; preprocessing against the official pixels."""

import json
import os

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.data.images import as_frames, read_image, resize_lanczos, to_model, to_uint8, write_png
from lcv_jax.errors import InputError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def quarters():
    """16 x 32: red, green above blue, white."""
    image = np.empty((16, 32, 3), np.uint8)
    image[:8, :16], image[:8, 16:], image[8:, :16], image[8:, 16:] = RED, GREEN, BLUE, WHITE
    return image


def test_image_condition_equals_the_official_pixels(goldens, checkpoint_dir):
    meta = json.loads((checkpoint_dir.parent / "pipeline_meta.json").read_text())["pipeline_i2v_cfg"]
    golden = goldens("pipeline_i2v_cfg")
    image = PIL.Image.fromarray(golden["image"])
    pixels = to_model(resize_lanczos(as_frames(image), tuple(meta["bucket"])))
    np.testing.assert_allclose(np.moveaxis(pixels, -1, 0)[None], golden["cond_pixels"], atol=1e-6, rtol=0)


def test_video_condition_equals_the_official_pixels(goldens, checkpoint_dir):
    meta = json.loads((checkpoint_dir.parent / "pipeline_meta.json").read_text())["pipeline_vc_cache_hf"]
    golden = goldens("pipeline_vc_cache_hf")
    frames = as_frames(golden["video"])[-meta["num_cond_frames"] :]
    pixels = to_model(resize_lanczos(frames, tuple(meta["bucket"])))
    np.testing.assert_allclose(np.moveaxis(pixels, -1, 0)[None], golden["cond_pixels"], atol=1e-6, rtol=0)


def test_every_level_survives_the_way_to_the_model_and_back():
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_model(levels)), levels)
    assert to_model(levels).dtype == np.float32
    assert (to_model(levels)[[0, 255]] == [-1, 1]).all()
    np.testing.assert_array_equal(to_uint8(np.array([-2.0, -1.0, 0.99999, 3.0])), [0, 0, 255, 255])


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr", "LA", "RGBA", "PA", "HSV", "La", "RGBa"])
def test_modes(mode, quarters):
    gray = mode in ("L", "1", "LA", "La")
    source = (
        np.where(quarters.sum(-1, keepdims=True) > 300, 255, 0).astype(np.uint8).repeat(3, -1) if gray else quarters
    )
    image = PIL.Image.fromarray(source)
    for step in {"La": ("LA", "La"), "RGBa": ("RGBA", "RGBa"), "PA": ("P", "PA")}.get(mode, (mode,)):
        image = image.convert(step)
    assert image.mode == mode
    np.testing.assert_allclose(as_frames(image)[0].astype(int), source, atol=2)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_are_rounded_not_cut(mode):
    wide = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    image = PIL.Image.fromarray(wide)
    image = image if mode == "I;16" else PIL.Image.fromarray(wide.astype(np.int32))
    assert image.mode == mode
    assert as_frames(image)[0, ..., 0].tolist() == np.arange(256).reshape(16, 16).tolist()


def test_float_pixels_are_refused():
    with pytest.raises(InputError, match="float pixels of unknown range"):
        as_frames(PIL.Image.fromarray(np.zeros((16, 16), np.float32)))


def test_alpha_shows_white(tmp_path, quarters):
    alpha = np.zeros((16, 32, 1), np.uint8)
    alpha[:, 16:] = 255
    alpha[:4, :4] = 128
    PIL.Image.fromarray(np.concatenate([quarters, alpha], -1)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image[10, 4].tolist() == [255, 255, 255]
    assert image[0, 0].tolist() == [255, 127, 127]
    np.testing.assert_array_equal(image[:, 16:], quarters[:, 16:])


def test_transparent_palette_color(tmp_path, quarters):
    image = PIL.Image.fromarray(quarters).quantize(4)
    image.save(tmp_path / "p.png", transparency=image.getpixel((0, 0)))
    pixels = read_image(tmp_path / "p.png")
    assert pixels[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(pixels[8:], quarters[8:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, quarters, orientation):
    # How a camera stores an upright picture under each EXIF orientation.
    stored = {
        1: quarters,
        2: quarters[:, ::-1],
        3: quarters[::-1, ::-1],
        4: quarters[::-1],
        5: quarters.transpose(1, 0, 2),
        6: np.rot90(quarters),
        7: np.rot90(quarters, 2).transpose(1, 0, 2),
        8: np.rot90(quarters, -1),
    }[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "o.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "o.png"), quarters)


def test_animation_gives_its_first_frame(tmp_path, quarters):
    first, second = PIL.Image.fromarray(quarters), PIL.Image.new("RGB", (32, 16))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    np.testing.assert_array_equal(read_image(tmp_path / "x.gif"), quarters)


def test_bad_files(tmp_path, quarters, monkeypatch):
    with pytest.raises(InputError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="no such file"):
        read_image(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=r"text\.png: is not an image"):
        read_image(tmp_path / "text.png")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for name in ("cut.png", "cut.jpg"):
        PIL.Image.fromarray(noise).save(tmp_path / name)
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=rf"{name}: cannot be decoded"):
            read_image(tmp_path / name)
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "one.png")
    with pytest.raises(InputError, match=r"one\.png: is 1 x 1 pixels, expected at least 8 x 8"):
        read_image(tmp_path / "one.png")
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 100)
    write_png(tmp_path / "large.png", quarters)
    with pytest.raises(InputError, match=r"large\.png: has too many pixels"):
        read_image(tmp_path / "large.png")


def test_frames_of_every_kind(quarters):
    image = PIL.Image.fromarray(quarters)
    assert as_frames(quarters).shape == (1, 16, 32, 3)
    assert as_frames(np.stack([quarters] * 3)).shape == (3, 16, 32, 3)
    np.testing.assert_array_equal(as_frames([image, quarters, image]), np.stack([quarters] * 3))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (np.zeros((16, 16, 3), np.float32), "dtype float32, expected uint8"),
        (np.zeros((16, 16), np.uint8), r"shape \(16, 16\)"),
        (np.zeros((2, 16, 16, 4), np.uint8), r"shape \(2, 16, 16, 4\)"),
        (np.zeros((0, 16, 16, 3), np.uint8), "at least one frame"),
        ([], "at least one frame"),
        ([np.zeros((16, 16, 3), np.uint8), np.zeros((16, 17, 3), np.uint8)], "all of one"),
        ([np.zeros((2, 16, 16, 3), np.uint8)], "all of one"),
        (np.zeros((1, 1, 3), np.uint8), "is 1 x 1 pixels"),
    ],
)
def test_frames_refused(given, match):
    with pytest.raises(InputError, match=match):
        as_frames(given)


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(8, 40), st.integers(8, 40), st.integers(0, 255))
def test_resize_has_the_size_and_keeps_a_flat_color(height, width, new_height, new_width, level):
    frames = np.full((2, height, width, 3), level, np.uint8)
    resized = resize_lanczos(frames, (new_height, new_width))
    assert resized.shape == (2, new_height, new_width, 3)
    assert (resized == level).all()


def test_png_round_trip(tmp_path, quarters):
    write_png(tmp_path / "x.png", quarters, {"prompt": "猫"})
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), quarters)
    with PIL.Image.open(tmp_path / "x.png") as image:
        assert json.loads(image.text["Comment"]) == {"prompt": "猫"}
    assert os.listdir(tmp_path) == ["x.png"]
    with pytest.raises(InputError, match="cannot be written"):
        write_png(tmp_path / "x.png" / "y.png", quarters)
