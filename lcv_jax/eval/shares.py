"""Counts as shares, with what chance leaves open."""

import math
from typing import Any

_Z = 1.959964  # of the normal distribution, 95 % within


def share(right: int, of: int) -> dict[str, Any]:
    """{"right", "of", "share", "interval"}: the interval is Wilson's score interval at 95 %."""
    return {"right": right, "of": of, "share": right / of, "interval": list(wilson(right, of))}


def wilson(right: int, of: int) -> tuple[float, float]:
    """Wilson's score interval of a share at 95 %: unlike the plain one it stays within [0, 1] and has a width at 0 and
    at 1 (Wilson 1927). of: at least 1."""
    p, z2 = right / of, _Z**2
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z * math.sqrt(p * (1 - p) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return max(middle - half, 0.0), min(middle + half, 1.0)
