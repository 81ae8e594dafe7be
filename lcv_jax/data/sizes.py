"""The sizes that a dataset's clips are brought to: those of a resolution, or a list of one's own."""

import dataclasses
import math

from lcv_jax.data.buckets import RESOLUTIONS, buckets, check_size
from lcv_jax.errors import InputError

SMALL = "256p"
"""The size of the first stages, for which no table is published: the ratios of 480p at the area of 256 x 256."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """(H, W) in pixels to choose from, each with the height / width that it stands for."""

    ratios: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]

    def nearest(self, height: int, width: int) -> tuple[int, int]:
        """The size whose ratio is closest to height / width; the first one on ties."""
        at = min(range(len(self.ratios)), key=lambda i: abs(self.ratios[i] - height / width))
        return self.sizes[at]

    @classmethod
    def of(cls, given: str, factor: int = 16) -> "Sizes":
        """ "256p", "480p", "720p", or sizes such as "64x64,64x96". factor: what all sides divide by."""
        if given in RESOLUTIONS:
            table = buckets(given, factor)
            return cls(tuple(map(float, table)), tuple(table.values()))
        if given == SMALL:
            ratios = tuple(map(float, buckets(RESOLUTIONS[0], 16)))
            return cls(ratios, tuple(_of_area(256 * 256, ratio, factor) for ratio in ratios))
        sizes = tuple(parse_size(text) for text in given.split(","))
        for size in sizes:
            check_size(*size, factor)
        return cls(tuple(height / width for height, width in sizes), sizes)


def parse_size(text: str) -> tuple[int, int]:
    """ "64x96" -> (64, 96)."""
    height, _, width = text.strip().partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise InputError(f"size {text!r}: expected 256p, 480p, 720p, or HEIGHTxWIDTH such as 64x96")
    return int(height), int(width)


def _of_area(area: int, ratio: float, factor: int) -> tuple[int, int]:
    height, width = math.sqrt(area * ratio), math.sqrt(area / ratio)
    return tuple(max(factor, round(side / factor) * factor) for side in (height, width))
