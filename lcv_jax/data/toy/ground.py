"""The ground behind the objects: drawn from its name, and named from its pixels."""

import numpy as np
import scipy.ndimage

from lcv_jax.data.toy.facts import TONES, Ground, generator, pick

CONTRAST = 24
"""Levels between a pattern's two shades."""
_DARK = 100  # a tone below this brightness has a lighter second shade, others a darker one
_LARGE = 48  # pixels; below, smoothing against noise would wash the pattern out
_LEAST_SEEN = 0.2  # share of the ground that must have been uncovered some time to name it
_LEAST_PATTERN = 5.0  # levels of deviation; a plain ground under noise stays below
_ONE_WAY = 0.5  # anisotropy of the gradients, 0 to 1: of stripes near 1, of checks and dots near 0
_LOPSIDED = 0.6  # skewness: dots are the minority, so theirs is 1.5; of checks it is 0


def draw_ground(ground: Ground, seed: int, size: tuple[int, int]) -> np.ndarray:
    """The ground of a clip, (H, W, 3) float32 in 0..255; the seed gives scale, place and direction of the pattern."""
    rng = generator([seed, 1])
    scale, shift_x, shift_y, turn = rng.random(4)
    tilt = pick(rng, (0.0, 45.0, 90.0, 135.0))
    first, second = shades(ground.tone)
    period = min(size) * (0.20 + 0.06 * scale)  # pixels
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = x / period + shift_x, y / period + shift_y
    if ground.pattern == "striped":
        angle = np.deg2rad(tilt + 10 * (turn - 0.5))
        share = _wave(x * np.cos(angle) + y * np.sin(angle), period) / 2 + 0.5
    elif ground.pattern == "checked":
        share = _wave(x / 1.5, 1.5 * period) * _wave(y / 1.5, 1.5 * period) / 2 + 0.5
    elif ground.pattern == "dotted":
        distance = np.hypot(x - np.round(x), y - np.round(y)) - 0.25
        share = np.clip(0.5 - distance * period, 0, 1)
    else:
        share = np.zeros(size)
    return (first + share[..., None] * (second - first)).astype(np.float32)


def shades(tone: str) -> tuple[np.ndarray, np.ndarray]:
    """A tone's colour, and that of a pattern on it, (3,) float32 RGB each."""
    first = np.array(TONES[tone], np.float32)
    return first, first + (CONTRAST if first.mean() < _DARK else -CONTRAST)


def _wave(x: np.ndarray, period: float) -> np.ndarray:
    """A square wave of x with period 1, -1 and 1, whose steps are one pixel wide; `period` in pixels."""
    return np.clip((4 * np.abs(x - np.round(x)) - 1) * period / 2, -1, 1)


def read_ground(pixels: np.ndarray) -> Ground | None:
    """Tone and pattern of (H, W, 3) floats in 0..255, NaN where it is covered; None when most of it is."""
    seen = ~np.isnan(pixels).any(axis=-1)
    if seen.mean() < _LEAST_SEEN:
        return None
    light = np.where(seen, pixels.mean(axis=-1), 0)
    side = 3 if min(seen.shape) >= _LARGE else 1
    parts = (scipy.ndimage.uniform_filter(values * 1.0, side) for values in (light, seen))
    smooth = np.divide(*parts, where=seen, out=np.zeros_like(light))
    levels = smooth[seen] - smooth[seen].mean()
    deviation = levels.std()
    if deviation < _LEAST_PATTERN:
        pattern = "plain"
    elif _anisotropy(smooth, scipy.ndimage.binary_erosion(seen, border_value=1)) > _ONE_WAY:
        pattern = "striped"
    else:
        pattern = "dotted" if abs((levels**3).mean()) > _LOPSIDED * deviation**3 else "checked"
    names = list(TONES)
    distances = np.linalg.norm(np.array(list(TONES.values())) - np.median(pixels[seen], axis=0), axis=-1)
    return Ground(names[int(distances.argmin())], pattern)


def _anisotropy(light: np.ndarray, where: np.ndarray) -> float:
    """How much the gradients go one way, 0 (no way) to 1."""
    y, x = (gradient[where] for gradient in np.gradient(light))
    xx, yy, xy = (x * x).mean(), (y * y).mean(), (x * y).mean()
    return float(np.hypot(xx - yy, 2 * xy) / max(xx + yy, 1e-9))
