"""Which records make up which batch: pure functions of the settings and the batch's number, on any number of hosts.

Records of one dataset and one form are a stream: its epochs in random orders, one behind the other. A stream's
batches are cut from that without a gap, so that what an epoch's last batch lacks is completed from the next epoch, and
no record is left out. Which stream comes next is decided by exact shares (`Turns`).
"""

import dataclasses
import functools
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.data.shards import Form
from lcv_jax.errors import InputError

_ENDLESS = 2**40


@dataclasses.dataclass(frozen=True)
class Tasks:
    """How often a batch of videos is which task, relative to one another; batches of images are text to image.

    t2v: nothing is given. i2v: the first latent frame is. vc: the first of `vc_latents` are, each number as likely (4
    are 13 frames). Each number of given frames has a compiled step of its own.
    """

    t2v: float = 1.0
    i2v: float = 0.0
    vc: float = 0.0
    vc_latents: tuple[int, ...] = (4,)

    def __post_init__(self):
        shares = (self.t2v, self.i2v, self.vc)
        if min(shares) < 0 or not 0 < sum(shares) < float("inf"):
            raise InputError(f"tasks t2v={self.t2v}, i2v={self.i2v}, vc={self.vc}: expected shares from 0, one above 0")
        if self.vc and (not self.vc_latents or min(self.vc_latents) < 2):
            raise InputError(f"tasks, vc_latents={self.vc_latents}: expected numbers from 2; one frame is i2v")

    def choices(self, frames: int) -> dict[tuple[str, int], float]:
        """The probability of each (task, latent frames that are given) for samples of so many latent frames."""
        if frames == 1:
            return {("t2i", 0): 1.0}
        lengths = [n for n in self.vc_latents if n < frames] if self.vc else []
        if self.vc and not lengths:
            raise InputError(
                f"tasks, vc_latents={self.vc_latents}: all are as long as videos of {frames} latent frames"
            )
        shares = {("t2v", 0): self.t2v, ("i2v", 1): self.i2v}
        shares |= {("vc", n): self.vc / len(lengths) for n in lengths}
        total = sum(shares.values())
        return {choice: share / total for choice, share in shares.items() if share}


def drawn(choices: Mapping[tuple[str, int], float], uniform: float) -> tuple[str, int]:
    """One of the choices, whose probabilities add up to 1, by a number in [0, 1)."""
    at = int(np.searchsorted(np.cumsum(list(choices.values())), uniform, side="right"))
    return list(choices)[min(at, len(choices) - 1)]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Records of one dataset and one form, in batches.

    name: unique. source: number of the dataset. records: their numbers in it. batch: samples of a batch, all hosts.
    share: of all batches.
    """

    name: str
    source: int
    form: Form
    records: np.ndarray
    batch: int
    share: float

    def record(self, position: int, seed: int) -> int:
        """The number of the record at a place in the row of epochs."""
        epoch, within = divmod(position, len(self.records))
        return int(self.records[_order(seed, zlib.crc32(self.name.encode()), epoch, len(self.records))[within]])


@functools.lru_cache(maxsize=128)
def _order(seed: int, stream: int, epoch: int, length: int) -> np.ndarray:
    """A random order. Only uniform floats are drawn, whose stream NumPy keeps from version to version."""
    return np.argsort(generator(seed, stream, epoch).random(length), kind="stable")


def generator(*entropy: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def streams(
    datasets: Sequence[tuple[str, Sequence[Form]]], weights: Sequence[float], sizes: Mapping[Form, int]
) -> tuple[Stream, ...]:
    """The streams of a mixture.

    datasets: name and its records' forms. weights: of the datasets, relative shares of the batches. sizes: samples of a
    batch by form. Within a dataset the streams take turns so that all records are seen equally often. Raises InputError
    for weights below 0 or all 0.
    """
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise InputError(f"mixture weights {tuple(weights)}: expected numbers from 0, at least one of them above 0")
    made = []
    for source, ((name, forms), weight) in enumerate(zip(datasets, weights, strict=True)):
        by_form: dict[Form, list[int]] = {}
        for number, form in enumerate(forms):
            by_form.setdefault(form, []).append(number)
        batches = sum(len(numbers) / sizes[form] for form, numbers in by_form.items())
        for form, numbers in sorted(by_form.items()):
            share = weight / sum(weights) * len(numbers) / sizes[form] / batches
            if share:
                label = f"{name}:{'x'.join(map(str, form))}"
                made.append(Stream(label, source, form, np.array(numbers), sizes[form], share))
    return tuple(made)


def batch_size(form: Form, patch: tuple[int, int, int], tokens: int, multiple: int) -> int:
    """Samples of a batch of about `tokens` tokens, a multiple of `multiple`, at least that."""
    T, h, w = form
    each = T // patch[0] * (h // patch[1]) * (w // patch[2])
    return max(1, tokens // (each * multiple)) * multiple


class Turns:
    """Whose turn it is: after any number of batches each stream has had its share of them, to less than one batch.

    Tijdeman's algorithm (The chairman assignment problem, 1980): of those that may get one more without being ahead,
    the one whose next is due first. Sequential; its position is how many batches each has had.
    """

    def __init__(self, shares: Sequence[float], counts: Sequence[int]):
        self._shares = np.asarray(shares, np.float64)
        self._slack = 1 / (2 * len(shares) - 2) if len(shares) > 1 else 0.0
        self.counts = np.array(counts, np.int64)

    def next(self) -> int:
        """The number of the stream whose turn it is; its count is one more afterwards."""
        at = int(self.counts.sum()) + 1
        # The epsilon keeps rounding from excluding whom exact arithmetic lets in.
        may = self._shares * at - self.counts >= self._slack - 1e-9
        due = np.where(may, (self.counts + 1 - self._slack) / self._shares, np.inf)
        chosen = int(np.argmin(due))
        self.counts[chosen] += 1
        return chosen


class Order:
    """The run's batches behind a position, by number, for Grain's threads, which ask for each of them once.

    counts: how many batches each stream has given: the position. read: makes batch `number` of a stream, the run's
    batch `at`; after: the position behind it, by the streams' names.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        counts: Sequence[int],
        read: Callable[[Stream, int, int, Mapping[str, int]], Any],
    ):
        self._streams, self._read, self._start = streams, read, sum(counts)
        self._turns = Turns([stream.share for stream in streams], counts)
        self._lock, self._decided, self._next = threading.Lock(), {}, 0
        self.position = self._named()

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> Any:
        with self._lock:
            while self._next <= index:
                stream = self._turns.next()
                self._decided[self._next] = stream, int(self._turns.counts[stream]) - 1, self._named()
                self._next += 1
            stream, number, after = self._decided.pop(index)
        return self._read(self._streams[stream], number, self._start + index, after)

    def _named(self) -> dict[str, int]:
        return {s.name: int(n) for s, n in zip(self._streams, self._turns.counts, strict=True)}
