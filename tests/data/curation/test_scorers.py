"""Scorers of single pictures: by hand, and on pictures that are sharp, blurred, dark, flat, copied."""

import math

import cv2
import numpy as np
import pytest

from lcv_jax.data.curation.scorers.base import Sample, needed
from lcv_jax.data.curation.scorers.pictures import (
    Blur,
    Exposure,
    PerceptualHash,
    Texture,
    laplacian_variance,
    perceptual_hash,
)
from lcv_jax.data.curation.scorers.views import Stills, shrunk, spread
from lcv_jax.data.curation.scorers.weights import fingerprint
from lcv_jax.data.texture import texture
from lcv_jax.errors import InputError


def score(scorer, stills):
    return scorer.open()([Sample("x", stills)])[0]


def grey(values) -> np.ndarray:
    return np.repeat(np.asarray(values, np.uint8)[..., None], 3, -1)


def pictured(seed=0, height=90, width=160) -> np.ndarray:
    """Blots of all sizes."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.float32)
    for octave in range(5):
        small = rng.normal(0, 30, (3 * 2**octave, 5 * 2**octave, 3)).astype(np.float32)
        image += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def bits(one: int, other: int) -> int:
    return ((one ^ other) & (2**64 - 1)).bit_count()


def test_the_laplacian_by_hand():
    """One bright pixel: -4 there, 1 on four sides, all times 100; the mean is 0."""
    image = np.zeros((72, 72))
    image[30, 30] = 100
    assert laplacian_variance(grey(image), 72) == pytest.approx(100**2 * (16 + 4) / 72**2)
    assert laplacian_variance(grey(np.full((72, 72), 90)), 72) == 0


def test_blur_is_the_median_and_the_tenth_percentile():
    stills = np.stack([grey(np.zeros((72, 72)))] * 4 + [pictured(1, 72, 72)])
    sharp = laplacian_variance(stills[4], 72)
    found = score(Blur(72), stills)
    assert found == {"blur": 0.0, "blur_p10": 0.0}
    assert score(Blur(72), stills[4:]) == {"blur": sharp, "blur_p10": sharp}
    assert score(Blur(72), stills[3:])["blur_p10"] == pytest.approx(0.1 * sharp)


def test_blurred_and_enlarged_pictures_score_less():
    rng = np.random.default_rng(0)
    sharp = np.clip(pictured(2, 360, 640) + rng.normal(0, 8, (360, 640, 1)), 0, 255).astype(np.uint8)
    enlarged = cv2.resize(sharp[90:270, 160:480], (640, 360), interpolation=cv2.INTER_CUBIC)
    values = [laplacian_variance(image, 360) for image in (sharp, enlarged, cv2.GaussianBlur(sharp, (0, 0), 2.0))]
    assert values[0] > 3 * values[1] > 3 * values[2]
    # A smaller picture is enlarged first.
    assert laplacian_variance(shrunk(sharp, shorter=180), 360) < values[0] / 3


def test_exposure_counts_pixels():
    image = np.full((10, 10), 100)
    image[0, :3], image[1, :2] = 15, 16
    image[2, :4], image[3, :1] = 240, 239
    assert score(Exposure(), np.stack([grey(image), grey(np.full((10, 10), 100))])) == {"dark": 0.015, "bright": 0.02}


def test_texture_is_that_of_shrunk_stills():
    stills = np.stack([pictured(seed) for seed in range(3)])
    expected = texture(np.stack([shrunk(still, shorter=45) for still in stills]))
    found = score(Texture(45), stills)
    assert found["texture_entropy"] == pytest.approx(expected.entropy)
    assert found["texture_contrast"] == pytest.approx(expected.contrast)
    assert set(found) == set(Texture.fields)
    flat = score(Texture(), np.full((1, 90, 160, 3), 77, np.uint8))
    assert (flat["texture_entropy"], flat["texture_energy"]) == (0.0, 1.0)


def test_a_hash_by_hand():
    """A wave that goes once down from top to bottom is the frequency (1, 0): the ninth bit, and no other stands out."""
    rows = np.cos(np.pi * (np.arange(32) + 0.5) / 32)
    value = perceptual_hash(grey(128 + np.round(100 * rows)[:, None].repeat(32, 1)))
    assert value >> (63 - 8) & 1 == 1
    assert value >> 63 & 1 == 0  # brightness is left out
    inverse = perceptual_hash(grey(128 - np.round(100 * rows)[:, None].repeat(32, 1)))
    assert inverse >> (63 - 8) & 1 == 0


def test_hashes_are_of_sixty_four_signed_bits():
    values = [perceptual_hash(pictured(seed)) for seed in range(40)]
    assert all(-(2**63) <= value < 2**63 for value in values)
    apart = [bits(a, b) for at, a in enumerate(values) for b in values[:at]]
    assert 26 < np.mean(apart) < 38
    assert min(apart) > 10


@pytest.mark.parametrize(
    ("change", "most"),
    [
        (lambda image: cv2.resize(image, (320, 200)), 2),
        (lambda image: np.clip(image * 0.8 + 30, 0, 255).astype(np.uint8), 2),
        (lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], 1), 4),
        (lambda image: image[2:-2, 3:-3], 8),
    ],
    ids=["scaled", "brightened", "compressed", "cropped"],
)
def test_copies_keep_their_hash(change, most):
    originals = [pictured(seed, 180, 320) for seed in range(12)]
    apart = [bits(perceptual_hash(image), perceptual_hash(change(image))) for image in originals]
    assert np.mean(apart) <= most


def test_flat_pictures_have_no_hash():
    assert perceptual_hash(grey(np.full((90, 160), 200))) == 0
    noise = np.random.default_rng(0).normal(20, 3, (90, 160))
    assert perceptual_hash(grey(np.clip(noise, 0, 255))) == 0
    assert score(PerceptualHash(frames=2), np.zeros((8, 90, 160, 3), np.uint8)) == {"phash": [0, 0]}


def test_stills_are_spread_over_the_clip():
    assert Stills(count=4).numbers(100) == [12, 37, 62, 87]
    assert Stills(count=4).numbers(3) == [0, 1, 2]
    assert list(spread(3, 8)) == [1, 4, 6]
    assert list(spread(5, 2)) == [0, 1]


def test_pictures_are_never_enlarged_by_shrinking():
    image = np.zeros((90, 160, 3), np.uint8)
    assert shrunk(image, shorter=720) is image
    assert shrunk(image, shorter=45).shape == (45, 80, 3)
    assert shrunk(image, longer=80).shape == (45, 80, 3)
    assert shrunk(image[..., 0].T, longer=80).shape == (80, 45)


def test_fingerprints_change_with_bytes_and_sizes(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(5_000_000))
    first = fingerprint(path)
    assert fingerprint(path) == first
    path.write_bytes(bytes(5_000_001))
    assert fingerprint(path) != first
    path.write_bytes(bytes(4_999_999) + b"x")
    assert fingerprint(path) != first
    small = tmp_path / "small"
    small.write_bytes(b"abc")
    assert fingerprint(path, small) != fingerprint(small, path)
    with pytest.raises(InputError, match=r"weights .*nothing: no such file"):
        fingerprint(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Blur(1), "blur, lines=1: expected at least 64"),
        (lambda: Texture(2), "texture, lines=2: expected at least 16"),
        (lambda: PerceptualHash(frames=0), "perceptual hash, frames=0"),
        (lambda: PerceptualHash(flat=-1.0), "perceptual hash, flat=-1.0"),
        (lambda: PerceptualHash(flat=math.nan), "perceptual hash, flat=nan"),
        (lambda: Stills(count=0), r"--annotate\.stills\.count=0"),
        (lambda: Stills(lines=8), r"--annotate\.stills\.lines=8"),
    ],
)
def test_settings_are_checked(make, match):
    with pytest.raises(InputError, match=match):
        make()


def test_a_missing_package_is_one_line():
    with pytest.raises(InputError, match=r"need no_such_package .*pip install 'lcv_jax\[curate\]'"):
        needed("no_such_package")
