"""Batches read ahead by threads, and what stands for a sample that is damaged: what all loaders have in common."""

import abc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import grain
import numpy as np

from lcv_jax.data.batching import Order, Stream
from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

_ATTEMPTS = 16  # samples tried in place of a damaged one


class Read(Protocol):
    """This host's rows of a batch. damaged: samples that others stand for. after: the position behind the batch."""

    damaged: Sequence[str]
    after: Mapping[str, int]


class ReadAhead(abc.ABC):
    """An endless source of batches by streams, whose position is the consumer's, however far threads have read ahead.

    what: its samples are called. max_damaged: samples; more end the run. threads, ahead: that read, and how many
    batches at most. position: batches that each stream has given. damaged: samples that others stood for, this host's.
    """

    def __init__(self, streams: Sequence[Stream], what: str, max_damaged: int, threads: int, ahead: int):
        self.streams, self.damaged = tuple(streams), 0
        self._what, self._max_damaged = what, max_damaged
        self._options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        self.begin([0] * len(self.streams))

    @abc.abstractmethod
    def read(self, stream: Stream, number: int, at: int, after: Mapping[str, int]) -> Any:
        """Batch `number` of the stream, the run's batch `at`. From any thread, and of nothing else's doing."""

    def begin(self, counts: Sequence[int]) -> None:
        """Goes on behind so many batches of each stream."""
        order = Order(self.streams, counts, self.read)
        self.position = order.position
        self._iterator = iter(grain.MapDataset.source(order).to_iter_dataset(self._options))

    def __next__(self) -> Any:
        """Raises InputError when too many samples were damaged."""
        batch: Read = next(self._iterator)
        self.position = batch.after
        for each in batch.damaged:
            logger.warning("%s; another of the %s stands for it", each, self._what)
        self.damaged += len(batch.damaged)
        if self.damaged > self._max_damaged:
            raise InputError(
                f"{self.damaged} damaged {self._what} so far, more than max_damaged={self._max_damaged}; the last: "
                f"{batch.damaged[-1]}. Repair or remove them, or allow more"
            )
        return batch

    def read_or_another(
        self, stream: Stream, number: int, rng: np.random.Generator, one: Callable[[int], Any], damage: type[InputError]
    ) -> tuple[Any, list[str]]:
        """one(number), or if that raises `damage` the same of another sample of the stream; and what was damaged."""
        tried: dict[int, str] = {}
        while True:
            try:
                return one(number), list(tried.values())
            except damage as error:
                tried[number] = str(error)
            if len(tried) >= min(_ATTEMPTS, len(stream.records)):
                raise InputError(
                    f"{len(tried)} {self._what} were tried for one and are damaged, the last: {tried[number]}"
                )
            while number in tried:
                number = int(stream.records[int(rng.random() * len(stream.records))])
