"""Near duplicates by hash: arithmetic by hand, and against a search of all pairs in Python."""

import numpy as np
import pytest

from lcv_jax.data.curation.duplicates import duplicates, near_duplicates
from lcv_jax.errors import InputError


def flipped(value, *bits):
    for bit in bits:
        value ^= 1 << bit
    return value - (1 << 64) if value >= 1 << 63 else value


BASE = [0x0123456789ABCDEF, 0x7EDCBA9876543210, 0x5A5A5A5A5A5A5A5A, 0x1111222233334444]


def test_the_mean_distance_decides():
    near = [flipped(BASE[0], *range(16)), *BASE[1:]]  # 16 bits of 4 frames: 4 each
    assert near_duplicates(["a", "b"], [BASE, near], [2, 1], 4) == {"b": "a"}
    assert near_duplicates(["a", "b"], [BASE, near], [2, 1], 3) == {}
    assert near_duplicates(["a", "b"], [BASE, [flipped(BASE[0], *range(17)), *BASE[1:]]], [2, 1], 4) == {}
    assert near_duplicates(["a", "b"], [BASE, BASE], [2, 1], 0) == {"b": "a"}


def test_the_sign_bit_is_a_bit():
    other = [flipped(value, 63) for value in BASE]
    assert all(value < 0 for value in other)
    assert near_duplicates(["a", "b"], [BASE, other], [2, 1], 1) == {"b": "a"}
    assert near_duplicates(["a", "b"], [BASE, other], [2, 1], 0) == {}


def test_flat_frames_are_not_compared():
    flat = [0, 0, 0, 0]
    assert near_duplicates(["a", "b"], [flat, flat], [2, 1], 8) == {}
    half = [BASE[0], BASE[1], 0, 0]
    assert near_duplicates(["a", "b"], [BASE, half], [2, 1], 0) == {"b": "a"}  # two frames that both show
    assert near_duplicates(["a", "b"], [half, [0, 0, *BASE[2:]]], [2, 1], 31) == {}  # none
    assert near_duplicates(["a", "b"], [half, [0, *BASE[1:]]], [2, 1], 0) == {}  # one, of four
    assert near_duplicates(["a", "b"], [BASE, [BASE[0], 0, 0, 0]], [2, 1], 0) == {}


def test_who_goes_is_like_one_that_stays():
    """A chain a - b - c: b goes for a; c, which is unlike a, stays."""
    chain = [[BASE[0]], [flipped(BASE[0], 0, 1, 2)], [flipped(BASE[0], 0, 1, 2, 3, 4, 5)]]
    assert near_duplicates(["a", "b", "c"], chain, [3, 2, 1], 3) == {"b": "a"}
    assert near_duplicates(["a", "b", "c"], chain, [2, 3, 1], 3) == {"a": "b", "c": "b"}


def test_the_larger_stays_and_of_equals_the_first():
    rows = [
        {"clip_id": "small", "phash": BASE, "width": 320, "height": 240, "seconds": 9.0},
        {"clip_id": "short", "phash": BASE, "width": 640, "height": 480, "seconds": 2.0},
        {"clip_id": "b", "phash": BASE, "width": 640, "height": 480, "seconds": 3.0},
        {"clip_id": "a", "phash": BASE, "width": 640, "height": 480, "seconds": 3.0},
        {"clip_id": "none", "phash": None, "width": 640, "height": 480, "seconds": 3.0},
    ]
    expected = {"small": "a", "short": "a", "b": "a"}
    assert duplicates(rows) == duplicates(rows[::-1]) == expected


def test_clips_of_other_numbers_of_frames_are_left_alone():
    assert near_duplicates(["a", "b", "c"], [BASE, BASE[:3], []], [3, 2, 1], 31) == {}
    assert near_duplicates([], [], [], 8) == {}


def test_all_pairs_are_found(monkeypatch):
    """Against the definition, in plain Python; in small blocks, so that pairs lie across them."""
    monkeypatch.setattr("lcv_jax.data.curation.duplicates._BLOCK", 32)
    rng = np.random.default_rng(5)
    hashes = rng.integers(-(2**63), 2**63, (30, 3), np.int64)
    hashes = np.repeat(hashes, 5, 0)
    for row in hashes:
        for at in range(3):
            for bit in rng.choice(64, rng.integers(0, 9), replace=False):
                row[at] ^= np.int64(1 << bit) if bit < 63 else np.int64(-(2**63))
    hashes[rng.random(hashes.shape) < 0.2] = 0
    ids, rank = [f"{n:03d}" for n in range(150)], rng.integers(0, 40, 150).tolist()
    expected = {}
    order = sorted(range(150), key=lambda at: (-rank[at], ids[at]))
    for place, at in enumerate(order):
        for better in order[:place]:
            both = [(int(a), int(b)) for a, b in zip(hashes[at], hashes[better], strict=True) if a and b]
            bits = sum(((a ^ b) & (2**64 - 1)).bit_count() for a, b in both)
            if len(both) >= 2 and bits <= 9 * len(both) and ids[better] not in expected:
                expected[ids[at]] = ids[better]
                break
    assert 20 < len(expected) < 140
    found = near_duplicates(ids, hashes.tolist(), rank, 9)
    assert found == expected
    mixed = rng.permutation(150)
    assert near_duplicates([ids[m] for m in mixed], hashes[mixed].tolist(), [rank[m] for m in mixed], 9) == expected


@pytest.mark.parametrize(
    ("ids", "hashes", "rank", "distance", "match"),
    [
        (["a"], [], [1], 8, "1 ids, 0 hashes, 1 ranks"),
        (["a", "a"], [[1], [2]], [1, 1], 8, "an id is given twice"),
        (["a"], [[1]], [1], 32, "distance=32: expected bits from 0 to 31"),
        (["a"], [[1]], [1], -1, "distance=-1"),
    ],
)
def test_refusals(ids, hashes, rank, distance, match):
    with pytest.raises(InputError, match=match):
        near_duplicates(ids, hashes, rank, distance)
