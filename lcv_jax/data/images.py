"""Image files and frames: reading anything into uint8 RGB, resizing, to and from the model's [-1, 1].

Frames are uint8 (F, H, W, 3), RGB, in display orientation. ICC profiles are ignored. Transparent pixels are
shown over white, as viewers do on a page.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.PngImagePlugin

from lcv_jax.data.files import Path, replacing, unwritable
from lcv_jax.errors import InputError

# One latent covers 8 x 8 pixels; a smaller picture has nothing to enlarge.
MIN_SIDE = 8

Frame = PIL.Image.Image | np.ndarray


def read_image(path: Path) -> np.ndarray:
    """An image file of any Pillow format and mode, (H, W, 3) uint8, its EXIF orientation applied.

    Of an animation the first frame is taken. Raises InputError if the file is missing, not an image, damaged,
    smaller than 8 x 8, or so large that Pillow takes it for a decompression bomb (about 179 million pixels).
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"image {path}: no such file")
    try:
        with PIL.Image.open(path) as image:
            pixels = _rgb(image)
    except PIL.UnidentifiedImageError as error:
        raise InputError(f"image {path}: is not an image of a known format; convert it to PNG or JPEG") from error
    except PIL.Image.DecompressionBombError as error:
        raise InputError(f"image {path}: has too many pixels; scale it below 100 million") from error
    except Exception as error:  # each of Pillow's decoders raises its own kinds on damaged files
        raise InputError(f"image {path}: cannot be decoded ({error}); export it again as PNG or JPEG") from error
    _check_sides(f"image {path}", pixels.shape)
    return pixels


def as_frames(given: Frame | Sequence[Frame]) -> np.ndarray:
    """What callers hand over as an image or a video, as uint8 (F, H, W, 3); one image has F = 1.

    given: a PIL image, an array (H, W, 3) or (F, H, W, 3), or a sequence of PIL images and arrays (H, W,
    3). Arrays must be uint8. Raises InputError on other dtypes and shapes, no frames, frames of different
    sizes or under 8 x 8.
    """
    if isinstance(given, PIL.Image.Image):
        frames = _rgb(given)[None]
    elif isinstance(given, list | tuple):
        parts = [_rgb(part) if isinstance(part, PIL.Image.Image) else np.asarray(part) for part in given]
        shapes = sorted({part.shape for part in parts})
        if not parts or len(shapes) > 1 or len(shapes[0]) != 3:
            raise InputError(f"frames: shapes {shapes}, expected at least one frame, all of one (height, width, 3)")
        frames = np.stack(parts)
    else:
        frames = np.asarray(given)
        frames = frames[None] if frames.ndim == 3 else frames
    if frames.dtype != np.uint8:
        raise InputError(f"frames: dtype {frames.dtype}, expected uint8 in 0..255; scale and round them first")
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise InputError(f"frames: shape {frames.shape}, expected (frames, height, width, 3) with at least one frame")
    _check_sides("frames", frames.shape[1:])
    return frames


def resize_lanczos(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(F, H, W, 3) uint8 to exactly `size` (H, W) by Lanczos, in 8 bits; the aspect ratio is not kept."""
    height, width = size
    if frames.shape[1:3] == (height, width):
        return frames
    out = np.empty((len(frames), height, width, 3), np.uint8)
    for frame, target in zip(frames, out, strict=True):
        target[:] = PIL.Image.fromarray(frame).resize((width, height), PIL.Image.Resampling.LANCZOS)
    return out


def to_model(frames: np.ndarray) -> np.ndarray:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return np.asarray(frames, np.float32) / np.float32(255) * np.float32(2) - np.float32(1)


def luminance(frames: np.ndarray) -> np.ndarray:
    """Of (..., 3) RGB, its levels weighted as in ITU-R BT.601: (...) float32."""
    return np.asarray(frames, np.float32) @ np.float32([0.299, 0.587, 0.114])


def to_uint8(video: Any) -> Any:
    """Floats in [-1, 1] to uint8 in 0..255: clamped, rounded to nearest, so that it inverts `to_model`.

    video: an array of NumPy or of JAX, where it may be jitted, so that a device hands over a quarter of the bytes.

    The official demos cut the fraction off instead, which darkens by half a level on average, and again
    every time a long video re-encodes its last frames.
    """
    xp = video.__array_namespace__()
    scaled = (video.astype(xp.float32) + 1) * 127.5
    return xp.round(xp.clip(scaled, 0, 255)).astype(xp.uint8)


def write_png(path: Path, image: np.ndarray, metadata: Mapping[str, Any] | None = None) -> None:
    """Writes one (H, W, 3) uint8 image; `metadata` as JSON in the text chunk "Comment"."""
    chunks = PIL.PngImagePlugin.PngInfo()
    if metadata is not None:
        chunks.add_itxt("Comment", json.dumps(metadata, ensure_ascii=False))
    with replacing(path) as aside:
        try:
            PIL.Image.fromarray(as_frames(image)[0]).save(aside, format="png", pnginfo=chunks)
        except OSError as error:
            raise unwritable(path, error) from error


def over_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with straight alpha to (H, W, 3) over a white ground."""
    color, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((color * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _rgb(image: PIL.Image.Image) -> np.ndarray:
    """Any PIL image as (H, W, 3) uint8, upright."""
    image = PIL.ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise InputError("image: has float pixels of unknown range; convert it to 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return np.repeat(((wide + 128) // 257).astype(np.uint8)[..., None], 3, axis=-1)
    if image.mode == "La":  # Pillow converts it to nothing else
        image = image.convert("LA")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        return over_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))


def _check_sides(what: str, shape: tuple[int, ...]) -> None:
    if min(shape[:2]) < MIN_SIDE:
        raise InputError(f"{what}: is {shape[0]} x {shape[1]} pixels, expected at least {MIN_SIDE} x {MIN_SIDE}")
