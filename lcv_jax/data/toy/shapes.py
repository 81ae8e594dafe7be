"""The outlines of the shapes, as signed distances; the renderer draws with them and the judge compares with them.

Each shape lies within the unit circle, stands upright, and has its centre of mass at the origin, so that turning does
not move it. x points right and y down, as in pictures.
"""

import math

import numpy as np

SYMMETRY = {"circle": 0.0, "square": 90.0, "triangle": 120.0, "star": 72.0, "heart": 360.0, "cross": 90.0}
"""After a turn by so many degrees a shape looks the same; the circle after any."""
_CIRCLE = 0.86
_SQUARE = 0.7  # half its side
_STAR = 0.46  # radius of the inner corners
_HEART = 1.05  # side of the square that, with a half-disc on each upper side, is a heart
_HEART_CENTRE = _HEART * (math.pi / 4) * (math.sqrt(2) / 4 + math.sqrt(2) / (3 * math.pi)) / (1 + math.pi / 4)
_CROSS = (0.93, 0.31)  # half the length and half the width of an arm


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of the points (x, y) from the outline of a unit shape, negative inside; like x and y.

    Exact along the edges; around outer corners the edges' lines go on, which keeps corners sharp.
    """
    return _DISTANCES[shape](x, y)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - _CIRCLE


def _box(x: np.ndarray, y: np.ndarray, half_width: float, half_height: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _box(x, y, _SQUARE, _SQUARE)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    length, width = _CROSS
    return np.minimum(_box(x, y, length, width), _box(x, y, width, length))


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    slanted = math.sqrt(3) / 2 * np.abs(x) - y / 2
    return np.maximum(y, slanted) - 0.5


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Folded into the tenth between a point, at angle 0, and the inner corner beside it."""
    sector = 2 * math.pi / 5
    angle = np.arctan2(x, -y)
    angle = np.abs(angle - sector * np.round(angle / sector))
    radius = np.hypot(x, y)
    inner_x, inner_y = _STAR * math.cos(sector / 2), _STAR * math.sin(sector / 2)
    edge = math.hypot(1 - inner_x, inner_y)
    return (inner_y * (radius * np.cos(angle) - 1) + (1 - inner_x) * radius * np.sin(angle)) / edge


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = np.abs(x), y - _HEART_CENTRE
    square = (x + np.abs(y)) / math.sqrt(2) - _HEART / 2
    middle = _HEART / math.sqrt(8)
    disc = np.hypot(x - middle, y + middle) - _HEART / 2
    return np.minimum(square, disc)


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "cross": _cross,
}
