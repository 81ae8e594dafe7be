"""Clips that look the same: copies that were encoded again, scaled, slightly cropped or brightened.

Two clips are the same where the perceptual hashes of their frames (scorers/pictures.py), compared at the same places of
both, differ in few bits on average. Frames that show nothing, whose hash is 0, are not compared. All pairs are: as
products of matrices of +1 and -1, block by block: about a minute of CPU time for 100 thousand clips.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.errors import InputError

DISTANCE = 10
"""Bits of 64; docs/curation/scorers.md tells what was measured."""
_BITS = 64
_BLOCK = 4096


def duplicates(records: Iterable[Mapping[str, Any]], distance: int = DISTANCE) -> dict[str, str]:
    """Of clips that look the same, those that go: their ids, and the id of the clip that stays.

    records: with "clip_id", "phash", "width", "height" and "seconds", the last three of which decide what stays: more
    pixels a frame, then more seconds. Clips without hashes are left out.
    """
    rows = [row for row in records if row["phash"]]
    order = sorted({(row["width"] * row["height"], row["seconds"]) for row in rows})
    rank = {key: float(at) for at, key in enumerate(order)}
    return near_duplicates(
        [row["clip_id"] for row in rows],
        [row["phash"] for row in rows],
        [rank[row["width"] * row["height"], row["seconds"]] for row in rows],
        distance,
    )


def near_duplicates(
    ids: Sequence[str], hashes: Sequence[Sequence[int]], rank: Sequence[float], distance: int = DISTANCE
) -> dict[str, str]:
    """Of clips that look the same, those that go: their ids, and the id of one that stays and looks the same.

    hashes: 64-bit signed numbers, of as many frames of each clip, 0 for one that shows nothing; clips of fewer frames
    are compared among themselves. rank: the higher stays; of equals the first by id. distance: mean bits, of 64, by
    which frames of the same may differ. Clips are compared where at least half of their frames show something in both.
    The answer does not depend on the order that clips are given in.

    Raises InputError on sequences of different lengths, an id twice, or a distance outside 0 to 31.
    """
    if not len(ids) == len(hashes) == len(rank):
        raise InputError(f"near duplicates: {len(ids)} ids, {len(hashes)} hashes, {len(rank)} ranks; expected as many")
    if len(set(ids)) < len(ids):
        raise InputError("near duplicates: an id is given twice, expected each once")
    if not 0 <= distance < _BITS // 2:
        raise InputError(f"near duplicates, {distance=}: expected bits from 0 to {_BITS // 2 - 1}")
    order = sorted(range(len(ids)), key=lambda at: (-rank[at], ids[at]))
    gone: dict[str, str] = {}
    for frames in sorted({len(some) for some in hashes} - {0}):
        same = [at for at in order if len(hashes[at]) == frames]
        table = np.array([hashes[at] for at in same], np.int64)
        gone |= {ids[same[one]]: ids[same[other]] for one, other in _stays(table, distance)}
    return gone


def _stays(hashes: np.ndarray, distance: int) -> Iterator[tuple[int, int]]:
    """Of (N, K) hashes, best first, each row that goes and the first row that stays and is the same."""
    rows = np.flatnonzero(2 * (hashes != 0).sum(1) >= hashes.shape[1])
    kept = np.zeros(0, np.int64)
    for start in range(0, len(rows), _BLOCK):
        here = rows[start : start + _BLOCK]
        first = np.full(len(here), -1)
        for begin in range(0, len(kept), _BLOCK):
            some, left = kept[begin : begin + _BLOCK], np.flatnonzero(first < 0)
            same = _same(hashes[here[left]], hashes[some], distance)
            first[left] = np.where(same.any(1), some[same.argmax(1)], -1)
        left = np.flatnonzero(first < 0)
        same = np.tril(_same(hashes[here[left]], hashes[here[left]], distance), -1)
        for one in np.flatnonzero(same.any(1)):
            # Whether those before it stay has been decided by now.
            staying = same[one] & (first[left] < 0)
            if staying.any():
                first[left[one]] = here[left[staying.argmax()]]
        yield from zip(here[first >= 0].tolist(), first[first >= 0].tolist(), strict=True)
        kept = np.concatenate([kept, here[first < 0]])


def _same(hashes: np.ndarray, others: np.ndarray, distance: int) -> np.ndarray:
    """Which of (N, K) and (M, K) hashes look the same, (N, M) bool."""
    # A product of vectors of +1 and -1 is 64 less twice the distance. Of frames that both show it is summed, less what
    # it is at the distance allowed; the last columns take that off, and a quarter bit that rounding may not eat.
    allowed = np.sqrt(np.float32(_BITS - 2 * distance - 0.5))
    near = _signs(hashes, -allowed) @ _signs(others, allowed).T > 0.1
    both = (hashes != 0).astype(np.float32) @ (others != 0).astype(np.float32).T
    return near & (2 * both >= hashes.shape[1])


def _signs(hashes: np.ndarray, last: np.float32) -> np.ndarray:
    """(N, 65 K) float32: of each hash its bits as +1 and -1, and then `last`, a frame; 0 for one that shows nothing."""
    shown = hashes != 0
    octets = np.ascontiguousarray(hashes).view(np.uint8).reshape(*hashes.shape, 8)
    bits = np.unpackbits(octets, axis=-1).astype(np.float32) * 2 - 1
    bits *= shown[..., None]
    return np.concatenate([bits.reshape(len(hashes), -1), shown * last], 1, dtype=np.float32)
