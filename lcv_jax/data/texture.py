"""How much texture a picture has: statistics of its gray-level co-occurrence matrix (Haralick et al. 1973).

Refinement is trained on clips with rich textures (SPEC 8): of a flat slide there is nothing to refine.
"""

import dataclasses

import numpy as np

from lcv_jax.data.images import luminance
from lcv_jax.errors import InputError

LEVELS = 32
_OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to neighbours at 0, 90 and 45 degrees either way
_SAMPLED = 3  # frames of a clip


@dataclasses.dataclass(frozen=True)
class Texture:
    """Of pairs of neighbouring pixels, whose grey levels i and j are equally spaced numbers from 0.

    contrast: mean of (i - j)^2. homogeneity: mean of 1 / (1 + (i - j)^2). energy: root of the summed squares of the
    pairs' shares. correlation: of i and j, 1 for a flat picture. entropy: of the shares, in bits: 0 for a flat picture,
    2 log2(levels) for one in which all pairs are equally frequent.
    """

    contrast: float
    homogeneity: float
    energy: float
    correlation: float
    entropy: float


def texture(frames: np.ndarray, levels: int = LEVELS) -> Texture:
    """Of a clip (F, H, W, 3) uint8: means over a few frames, evenly spread, and over four directions."""
    if frames.ndim != 4 or frames.shape[-1] != 3 or min(frames.shape[1:3]) < 2:
        raise InputError(f"texture of frames {frames.shape}: expected (F, H, W, 3), at least 2 x 2 pixels")
    chosen = np.unique(np.linspace(0, len(frames) - 1, _SAMPLED).round().astype(int))
    found = [statistics(shares) for at in chosen for shares in co_occurrence(grey(frames[at], levels), levels)]
    names = [field.name for field in dataclasses.fields(Texture)]
    return Texture(**{name: float(np.mean([getattr(each, name) for each in found])) for name in names})


def grey(frame: np.ndarray, levels: int) -> np.ndarray:
    """Luminance of (H, W, 3) uint8 in `levels` equal steps."""
    return np.minimum((luminance(frame) * (levels / 256)).astype(np.int64), levels - 1)


def co_occurrence(image: np.ndarray, levels: int) -> list[np.ndarray]:
    """Shares (levels, levels) of the pairs of levels among neighbours, either way round; one for each direction.

    image: (H, W) whole numbers below `levels`.
    """
    found = []
    for down, right in _OFFSETS:
        (height, width), left = image.shape, max(0, -right)
        one = image[: height - down, left : width - max(0, right)]
        other = image[down:, left + right : width - max(0, right) + right]
        counts = np.bincount((one * levels + other).ravel(), minlength=levels**2).reshape(levels, levels)
        both = (counts + counts.T).astype(np.float64)
        found.append(both / both.sum())
    return found


def statistics(shares: np.ndarray) -> Texture:
    """Of one matrix of shares."""
    i, j = np.indices(shares.shape)
    difference = np.square(i - j)
    mean = (i * shares).sum()
    variance = (np.square(i - mean) * shares).sum()
    covariance = ((i - mean) * (j - mean) * shares).sum()
    some = shares[shares > 0]
    return Texture(
        contrast=(difference * shares).sum(),
        homogeneity=(shares / (1 + difference)).sum(),
        energy=np.sqrt(np.square(shares).sum()),
        correlation=covariance / variance if variance > 1e-12 else 1.0,
        entropy=-(some * np.log2(some)).sum(),
    )
