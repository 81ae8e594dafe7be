"""Batches of cached samples: every batch of one form and one task, read ahead by threads, resumable to the sample.

A batch is a function of the settings and its position, so that a run that continues from a saved position reads what it
would have read, whatever the number of hosts. Records are cached latents, so threads are enough: worker processes
cost more in copies than the reading does (Grain runs the threads).
"""

import dataclasses
import enum
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from lcv_jax.data.batching import Stream, Tasks, batch_size, drawn, generator, streams
from lcv_jax.data.read_ahead import ReadAhead
from lcv_jax.data.records import Record, RecordError
from lcv_jax.data.shards import DEVIATIONS, LATENTS, TEXT, UPSAMPLED, UPSAMPLED_DEVIATIONS, Encoding, Form
from lcv_jax.errors import InputError

_TASK, _SAMPLE, _INSTEAD = 0, 1, 2  # what random numbers are for


class Reads(enum.StrEnum):
    """What is read of records. LATENTS: of clips; their tasks are drawn. PAIRS: for refinement, also those of what it
    starts from; the task is the one that a dataset's pairs were made for."""

    LATENTS = "latents"
    PAIRS = "pairs"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What decides the order and content of batches.

    tokens: of a batch over all hosts, about; each form gets as many samples as fit, a multiple of `multiple`. tasks: of
    videos. captions: how often which of a sample's captions is taken, relative to one another, such as (("en", 1),
    ("zh", 1)); () takes all that a sample has, equally. text_tokens: length that text is padded to, the one sampled
    with. posterior: "mode", or "sample" from the deviations that a dataset kept. seed: of all that is drawn.
    max_damaged: records; more end the run.
    """

    tokens: int
    multiple: int = 1
    tasks: Tasks = dataclasses.field(default_factory=Tasks)
    captions: tuple[tuple[str, float], ...] = ()
    text_tokens: int = 512
    posterior: str = "mode"
    seed: int = 0
    max_damaged: int = 100

    def __post_init__(self):
        for name in ("tokens", "multiple", "text_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"data, {name}={getattr(self, name)}: expected at least 1")
        if self.posterior not in ("mode", "sample"):
            raise InputError(f"data, posterior={self.posterior!r}: expected 'mode' or 'sample'")
        if self.seed < 0 or self.max_damaged < 0:
            raise InputError(f"data, seed={self.seed}, max_damaged={self.max_damaged}: expected numbers from 0")
        if any(weight < 0 for _, weight in self.captions):
            raise InputError(f"data, captions={self.captions}: expected weights from 0")


class Samples(Protocol):
    """What is loaded from: `shards.Dataset`, or what behaves like one. place: for messages. forms: of the records.
    fingerprint: changes with the content."""

    place: str
    encoding: Encoding
    forms: Sequence[Form]

    @property
    def fingerprint(self) -> str: ...

    def prompts(self) -> Mapping[str, np.ndarray]:
        """States (l, D) of the prompts that belong to no sample, by their text."""

    def __getitem__(self, number: int) -> Record:
        """From any thread. Raises RecordError if the record is damaged."""


@dataclasses.dataclass(frozen=True, eq=False)
class HostBatch:
    """This host's rows of one batch.

    latents: (b, T, h, w, C) float32, normalised. upsampled: of pairs, what refinement starts from, like the latents.
    states: (b, L, D) as cached. mask: (b, L) bool. size: samples over all hosts. damaged: records that others stand
    for, this host's. after: the position behind this batch.
    """

    latents: np.ndarray
    states: np.ndarray
    mask: np.ndarray
    num_cond: int
    task: str
    stream: str
    size: int
    damaged: tuple[str, ...]
    after: Mapping[str, Any]
    upsampled: np.ndarray | None = None


class Loader(ReadAhead):
    """An endless source of `HostBatch`. Its position is the consumer's, however far threads have read ahead.

    datasets: opened. weights: shares of the batches. reads: what of their records. rows: which of a batch's rows this
    host holds, by its size. patch: of the model, for counting tokens. Raises InputError for datasets that cannot be
    mixed, or lack what is asked for.
    """

    def __init__(
        self,
        datasets: Sequence[Samples],
        weights: Sequence[float],
        settings: Settings,
        *,
        reads: Reads = Reads.LATENTS,
        patch: tuple[int, int, int] = (1, 2, 2),
        rows: Callable[[int], Sequence[int]] = range,
        threads: int = 4,
        ahead: int = 4,
    ):
        if not datasets:
            raise InputError("data: no datasets given, expected at least one folder that lcv_jax.data.cache wrote")
        _check_alike(datasets, settings)
        if reads is Reads.PAIRS:
            _check_pairs(datasets)
        forms = {form for dataset in datasets for form in dataset.forms}
        sizes = {form: batch_size(form, patch, settings.tokens, settings.multiple) for form in forms}
        named = [(str(number), dataset.forms) for number, dataset in enumerate(datasets)]
        made = streams(named, weights, sizes)
        self.settings = settings
        self._datasets, self._rows, self._reads = tuple(datasets), rows, reads
        for stream in made:
            self._choices(stream)  # raises where there are none
        self._prompts = [dataset.prompts() for dataset in datasets]
        self._made_of = _description(datasets, weights, settings, made)
        if reads is not Reads.LATENTS:
            self._made_of["reads"] = str(reads)
        super().__init__(made, "records", settings.max_damaged, threads, ahead)

    def get_state(self) -> dict[str, Any]:
        """Of JSON's types, the same on every host but for "damaged", this host's count."""
        return {"batches": dict(self.position), "damaged": self.damaged, "made_of": self._made_of}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues behind what was consumed. Raises InputError, saying what differs, if the data are not the same."""
        if set(state) != {"batches", "damaged", "made_of"}:
            raise InputError(f"position in the data with keys {sorted(state)}: it is of another kind of source")
        for name in sorted(self._made_of.keys() | state["made_of"].keys()):
            now, then = self._made_of.get(name), state["made_of"].get(name)
            if now != then:
                raise InputError(
                    f"the checkpoint's position is in other data: {name} was {then}, is {now}; give the data and "
                    "settings it was made with, or start a new run from its weights"
                )
        self.damaged = state["damaged"]
        self.begin([state["batches"].get(stream.name, 0) for stream in self.streams])

    @property
    def prompts(self) -> Mapping[str, np.ndarray]:
        """States (l, D) of the prompts that belong to no sample, by their text, of the first dataset that has them."""
        return {text: states for prompts in reversed(self._prompts) for text, states in prompts.items()}

    def batches(self) -> list[tuple[Stream, str, int]]:
        """Every (stream, task, latent frames given) that a batch may be: what a step is compiled for."""
        return [(s, *choice) for s in self.streams for choice in self._choices(s)]

    def _choices(self, stream: Stream) -> Mapping[tuple[str, int], float]:
        """The probability of each (task, latent frames given) of its batches."""
        if self._reads is Reads.PAIRS:
            pairs = self._datasets[stream.source].encoding.pairs
            return {(pairs.task, pairs.cond_latents): 1.0}
        return self.settings.tasks.choices(stream.form[0])

    def read(self, stream: Stream, number: int, at: int, after: Mapping[str, int]) -> HostBatch:
        """Batch `number` of the stream, the run's batch `at`."""
        s = self.settings
        task, num_cond = drawn(self._choices(stream), generator(s.seed, _TASK, at).random())
        each = [self._sample(stream, number * stream.batch + row) for row in self._rows(stream.batch)]
        latents, states, damaged = zip(*each, strict=True)
        L, D = s.text_tokens, states[0].shape[1]
        padded, mask = np.zeros((len(states), L, D), states[0].dtype), np.zeros((len(states), L), bool)
        for row, text in enumerate(states):
            padded[row, : len(text)] = text
            mask[row, : len(text)] = True
        lost = tuple(name for names in damaged for name in names)
        stacked = [np.stack(rows) for rows in zip(*latents, strict=True)]
        upsampled = stacked[1] if self._reads is Reads.PAIRS else None
        return HostBatch(stacked[0], padded, mask, num_cond, task, stream.name, stream.batch, lost, after, upsampled)

    def _sample(self, stream: Stream, position: int) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
        """Latents (of a pair both), text states and damaged records of a place in a stream; they depend on it alone."""
        s = self.settings
        entropy = (zlib.crc32(stream.name.encode()), position)
        instead, read = generator(s.seed, _INSTEAD, *entropy), self._datasets[stream.source].__getitem__
        record, damaged = self.read_or_another(stream, stream.record(position, s.seed), instead, read, RecordError)
        rng = generator(s.seed, _SAMPLE, *entropy)
        chosen = rng.random()
        moments = [(LATENTS, DEVIATIONS)]
        if self._reads is Reads.PAIRS:
            moments.append((UPSAMPLED, UPSAMPLED_DEVIATIONS))
        latents = []
        for mean, deviations in moments:
            z = record.arrays[mean].astype(np.float32)
            if s.posterior == "sample":
                noise = rng.standard_normal(z.shape, np.float32)
                z = z + record.arrays[deviations].astype(np.float32) * noise
            latents.append(z)
        return latents, self._text(record, chosen, stream.source), damaged

    def _text(self, record: Record, uniform: float, source: int) -> np.ndarray:
        """States (l, D) of one of the record's captions, of the empty prompt where it has none."""
        weights = dict(self.settings.captions) or dict.fromkeys(record.captions, 1.0)
        names = [name for name in record.captions if weights.get(name, 0) > 0]
        if not names:
            empty = self._prompts[source].get("")
            if empty is None:
                raise InputError(
                    f"record {record.key!r} has none of the captions {sorted(weights)}, and its dataset no "
                    "empty prompt; choose captions that it has"
                )
            return empty
        shares = np.cumsum([weights[name] for name in names])
        at = int(np.searchsorted(shares, uniform * shares[-1], side="right"))
        return record.arrays[TEXT + names[min(at, len(names) - 1)]][: self.settings.text_tokens]


def _check_alike(datasets: Sequence[Samples], settings: Settings) -> None:
    """Raises InputError unless all were encoded by one VAE and text encoder, and have what is asked for."""
    first = datasets[0]
    for dataset in datasets:
        for name in ("vae", "text_encoder", "tokenizer", "channels", "text_width", "dtype"):
            one, two = getattr(first.encoding, name), getattr(dataset.encoding, name)
            if one != two:
                raise InputError(
                    f"{dataset.place}: {name} is {two}, but {one} in {first.place}: expected datasets that were "
                    "encoded with the same models; write one of the caches again"
                )
        if settings.posterior == "sample" and dataset.encoding.posterior != "sample":
            raise InputError(
                f"{dataset.place}: holds no deviations, which posterior='sample' needs; write the cache with "
                "--posterior sample, or take 'mode'"
            )


def _check_pairs(datasets: Sequence[Samples]) -> None:
    for dataset in datasets:
        if dataset.encoding.pairs is None:
            raise InputError(
                f"{dataset.place}: holds no pairs, which refinement learns from: write the cache with --pairs spatial "
                "or --pairs spatio-temporal"
            )


def _description(
    datasets: Sequence[Samples], weights: Sequence[float], settings: Settings, made: Sequence[Stream]
) -> dict[str, Any]:
    """What the position in the data means nothing without, of JSON's types."""
    s = dataclasses.asdict(settings)
    del s["max_damaged"]
    s["captions"] = [list(pair) for pair in settings.captions]
    s["tasks"]["vc_latents"] = list(settings.tasks.vc_latents)
    return s | {
        "datasets": [dataset.fingerprint for dataset in datasets],
        "weights": [float(weight) for weight in weights],
        "batch sizes": {stream.name: stream.batch for stream in made},
    }
