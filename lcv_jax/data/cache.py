"""`python -m lcv_jax.data.cache`: videos, images and captions to shards of latents and text states.

What is stored of a clip is the mean of the autoencoder's posterior, and with `--posterior sample` its standard
deviation as well, so that training can draw from it. The mean is the default: the autoencoder's posteriors are narrow,
and the file is half as large. Text states are cut to the caption's own tokens; the loader pads them again. With --pairs
a record also holds what refinement would start from, and both are padded as there.

Shards are finished one by one, so a cache that was killed goes on behind its last one when it is started again; with
--part I/N it is written by N processes, each every N-th shard. The index comes last: without it no dataset is opened.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import numpy as np
import tqdm
import tyro

from lcv_jax.command_line import parse, status
from lcv_jax.data import shards
from lcv_jax.data.degrade import Degrading
from lcv_jax.data.images import to_model
from lcv_jax.data.pair_sources import POOR, Paired, Textured
from lcv_jax.data.pairs import Pairs
from lcv_jax.data.records import DTYPES, Record
from lcv_jax.data.shards import (
    DEVIATIONS,
    INDEX,
    LATENTS,
    PROMPTS,
    TEXT,
    UPSAMPLED,
    UPSAMPLED_DEVIATIONS,
    Encoding,
    Index,
    Shard,
    write_shard,
)
from lcv_jax.data.sizes import Sizes
from lcv_jax.data.sources import TOY, Item, Source, open_clips, open_toy
from lcv_jax.data.storage import Folder
from lcv_jax.data.upsample import upsampled
from lcv_jax.errors import InputError
from lcv_jax.models.vae import normalize
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING
from lcv_jax.sample.defaults import NEGATIVE_PROMPT
from lcv_jax.sample.encoders import Encoders, fingerprint, tokenizer_fingerprint

logger = logging.getLogger(__name__)

BEGUN = "cache.json"
_DECODERS = 8


@dataclasses.dataclass(frozen=True)
class Cache:
    """Encode clips and captions for training."""

    source: str
    """A folder of clips with captions.jsonl or a .txt beside each, a .jsonl list, or toy:COUNT."""
    checkpoint: str
    """A checkpoint with vae/, text_encoder/ and tokenizer/, in either layout, or a hub id."""
    out: str
    """Folder, or gs:// or s3:// with gcsfs or s3fs installed."""
    size: str = "480p"
    """Of clips: 256p, 480p, 720p, the nearest aspect ratio each, or a list such as 64x64,64x96."""
    factor: int = 16
    """What both sides divide by; 64 for block sparse attention."""
    frames: tuple[int, ...] = (93,)
    """Lengths of clips, 4n + 1: each clip gets the longest that it has. Spatio-temporal pairs have twice as many."""
    fps: int = 15
    """Frames a second that clips are resampled to; twice as many for spatio-temporal pairs."""
    forms: tuple[str, ...] = ()
    """Of the toy world: HxWxF, or HxWxF@WEIGHT."""
    objects: tuple[int, ...] = (1, 2, 3)
    """Of the toy world: how many objects a clip may have."""
    split: Literal["train", "held_out"] = "train"
    """Of the toy world."""
    seed: int = 0
    """Of the toy world, and of degradations."""
    pairs: Literal["spatial", "spatio-temporal"] | None = None
    """For refinement: encode with each clip what it is before it, smaller, degraded, and upsampled again; with half the
    frames too if spatio-temporal."""
    low_size: str = "480p"
    """Of pairs: size before refinement, as --size."""
    cond_frames: int = 0
    """Of pairs: refined frames at the front that are given: 0, 1 of a picture, 13 or, at twice the rate, 26."""
    latent_multiple: int = 4
    """Of pairs: what counts of latents divide by, the time side of the model's sparse blocks."""
    degrading: Degrading = dataclasses.field(default_factory=Degrading)
    """Of pairs: how much the smaller clips are degraded."""
    min_texture: float = 0.0
    """Clips whose gray-level co-occurrence entropy is below so many bits are skipped; flat ones have less than 1."""
    posterior: Literal["mode", "sample"] = "mode"
    """mode: means only. sample: deviations too, twice the bytes."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of what is stored."""
    compute_dtype: Literal["bfloat16", "float32"] | None = None
    """Of the encoders; by default bfloat16, on a CPU float32."""
    max_text_tokens: int = 512
    """Longer captions are cut."""
    negative_prompt: str = NEGATIVE_PROMPT
    """Encoded once, beside the empty prompt, for distillation of guidance; "" for none. A cache that has another gets
    this one instead when it is written again, and its clips stay."""
    shard_records: int = 64
    """Clips of a shard, which are held in memory."""
    batch: int = 1
    """Clips of one size that are encoded together."""
    part: Annotated[str, tyro.conf.arg(metavar="I/N")] = "0/1"
    """This process's part of the shards, from 0."""
    mesh: str = "data=1"
    """Devices that share a picture, such as context=4."""

    def run(self) -> Index | None:
        """Writes what is not there yet. Returns the index, None where other parts' shards are still missing."""
        part, parts = self._part()
        for name in ("shard_records", "batch", "max_text_tokens", "fps"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected at least 1")
        if not self.min_texture >= 0:
            raise InputError(f"--min-texture {self.min_texture}: expected bits from 0")
        source, folder = self._source(), Folder(self.out)
        placement = MeshPlacement(MeshConfig.parse(self.mesh).make(), SAMPLING)
        encoders = Encoders.open(self.checkpoint, placement, self.compute_dtype)
        encoding = self._encoding(encoders)
        _begin(folder, self._settings(source, encoding))
        ranges = _ranges(source, self)
        prompts = {"empty": ""} | ({"negative": self.negative_prompt} if self.negative_prompt else {})
        waiting = [n for n in range(part, len(ranges), parts) if folder.read(_told(n)) is None]
        unprompted = part == 0 and not _has_prompts(folder, prompts)
        if waiting or unprompted:
            work = _Work(encoders.load(), encoding, self.batch)
            if unprompted:
                _write(folder, None, work.prompts(prompts))
            total = sum(len(ranges[n]) for n in waiting)
            with tqdm.tqdm(desc="cache", total=total, unit=" clips", disable=None) as bar:
                for n in waiting:
                    skipped: list[tuple[str, str]] = []
                    _write(folder, n, work.records(source, ranges[n], skipped), skipped)
                    bar.update(len(ranges[n]))
        return _finish(folder, encoding, source, len(ranges))

    def _part(self) -> tuple[int, int]:
        part, _, parts = self.part.partition("/")
        if not (part.isdigit() and parts.isdigit() and int(part) < int(parts)):
            raise InputError(f"--part {self.part}: expected I/N with I from 0 to N - 1, such as 0/4")
        return int(part), int(parts)

    def _source(self) -> Source:
        pairs = self._pairs()
        times = 1 if pairs is None else pairs.times
        if self.source.startswith(TOY):
            source = open_toy(self.source, self.forms, self.seed, self.split, self.objects, times)
        else:
            sizes = Sizes.of(self.size, self.factor)
            source = open_clips(self.source, sizes, self.frames, self.fps, times=times)
        if self.min_texture:
            source = Textured(source, self.min_texture)
        return source if pairs is None else Paired(source, pairs, Sizes.of(self.low_size), self.degrading)

    def _pairs(self) -> Pairs | None:
        if self.pairs is None:
            if self.cond_frames:
                raise InputError(
                    f"--cond-frames {self.cond_frames}: is of --pairs; the loader draws other clips' tasks"
                )
            return None
        return Pairs(self.pairs, self.cond_frames, self.latent_multiple, self.seed)

    def _settings(self, source: Source, encoding: Encoding) -> dict[str, Any]:
        """What all shards must have in common, of JSON's types."""
        names = ("size", "factor", "frames", "objects", "seed", "shard_records")
        own = {"source": source.name, "clips": len(source)} | {name: getattr(self, name) for name in names}
        low = None if self.pairs is None else {"size": self.low_size, "degrading": dataclasses.asdict(self.degrading)}
        own |= {"low": low, "min_texture": self.min_texture or None}
        return json.loads(json.dumps(own | dataclasses.asdict(encoding)))

    def _encoding(self, encoders: Encoders) -> Encoding:
        vae, text = (encoders.files[name] for name in ("vae", "text_encoder"))
        pairs = self._pairs()
        return Encoding(
            vae=fingerprint(vae),
            text_encoder=fingerprint(text),
            tokenizer=tokenizer_fingerprint(encoders.folder / "tokenizer"),
            channels=vae.config.z_dim,
            text_width=text.config.d_model,
            max_text_tokens=self.max_text_tokens,
            dtype=self.dtype,
            posterior=self.posterior,
            fps=self.fps * (1 if pairs is None else pairs.times),
            pairs=pairs,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
    """Encodes items. batch: clips of one size at a time; what is missing is filled up, so that shapes stay few."""

    encoders: Encoders
    encoding: Encoding
    batch: int

    def prompts(self, texts: Mapping[str, str]) -> list[Record]:
        """texts: by name, which becomes the record's key."""
        return [self._prompt(name, text) for name, text in texts.items()]

    def _prompt(self, key: str, text: str) -> Record:
        (states,) = self.encoders.encode_prompts([text], self.encoding.max_text_tokens)
        return Record(key, {key: text}, {TEXT + key: self._stored(states)})

    def records(self, source: Source, numbers: Sequence[int], skipped: list[tuple[str, str]]) -> list[Record]:
        """The records of these items in order; those that cannot be used are added to `skipped`."""
        groups: dict[tuple[int, ...], list[tuple[int, Item]]] = {}
        made: dict[int, Record] = {}
        for number, item in _read(source, numbers, skipped):
            group = groups.setdefault(item.frames.shape, [])
            group.append((number, item))
            if len(group) == self.batch:
                made |= self._encode(groups.pop(item.frames.shape))
        for group in groups.values():
            made |= self._encode(group)
        return [made[number] for number in sorted(made)]

    def _encode(self, group: Sequence[tuple[int, Item]]) -> dict[int, Record]:
        items = [item for _, item in group]
        found = self._latents(items + items[-1:] * (self.batch - len(items)))
        records = {}
        for row, (number, item) in enumerate(group):
            arrays = {name: self._stored(rows[row]) for name, rows in found.items()}
            states = self.encoders.encode_prompts(list(item.captions.values()), self.encoding.max_text_tokens)
            arrays |= {TEXT + name: self._stored(rows) for name, rows in zip(item.captions, states, strict=True)}
            records[number] = Record(item.key, item.captions, arrays)
        return records

    def _latents(self, items: Sequence[Item]) -> dict[str, np.ndarray]:
        """By name, (b, T, h, w, C). Pairs are brought to the form that refinement gives the network (`sample.refine`);
        the low clips went through the autoencoder before, as a sampled one has."""
        pairs = self.encoding.pairs
        if pairs is None:
            return self._moments([to_model(np.stack([item.frames for item in items]))], LATENTS, DEVIATIONS)
        window, size = pairs.window(len(items[0].frames)), items[0].frames.shape[1:3]
        high = (to_model(np.stack([item.frames[at] for item in items])[:, None]) for at in window.shown)
        low = self.encoders.posterior(to_model(np.stack([item.low for item in items])))
        rows = [upsampled(row, size, window.frames, window.shown) for row in self.encoders.frames(low.mean)]
        up = (np.stack(frames)[:, None] for frames in zip(*rows, strict=True))
        return self._moments(high, LATENTS, DEVIATIONS) | self._moments(up, UPSAMPLED, UPSAMPLED_DEVIATIONS)

    def _moments(self, pieces: Iterable[np.ndarray], mean: str, deviations: str) -> dict[str, np.ndarray]:
        """Normalised mean, and standard deviation if it is kept, of the posterior of videos in pieces along F."""
        found, config = self.encoders.posterior_of(pieces), self.encoders.files["vae"].config
        moments = {mean: normalize(config, found.mean)}
        if self.encoding.posterior == "sample":
            moments[deviations] = jnp.exp(0.5 * found.logvar) / jnp.asarray(config.latents_std)
        return {name: self.encoders.placement.fetch(value) for name, value in moments.items()}

    def _stored(self, array: np.ndarray) -> np.ndarray:
        if not np.isfinite(array).all():
            raise InputError("an encoder gave NaN or infinity: expected numbers; try --compute-dtype float32")
        return np.asarray(array).astype(DTYPES[self.encoding.dtype])


def _read(source: Source, numbers: Iterable[int], skipped: list[tuple[str, str]]) -> Iterator[tuple[int, Item]]:
    """The items, decoded ahead by threads while those before are being encoded."""
    threads = min(_DECODERS, os.cpu_count() or 1)
    rest, waiting = iter(numbers), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        while True:
            for number in itertools.islice(rest, threads + 1 - len(waiting)):
                waiting.append((number, pool.submit(source.__getitem__, number)))
            if not waiting:
                return
            number, future = waiting.popleft()
            try:
                yield number, future.result()
            except InputError as error:
                logger.warning("skipped: %s", error)
                skipped.append((source.key(number), str(error)))


def _has_prompts(folder: Folder, texts: Mapping[str, str]) -> bool:
    """Whether the cache holds the states of these prompts."""
    told = folder.read(_told(None))
    if told is None:
        return False
    shard = Shard.from_json(shards.read_json(told, _told(None)), folder.name(_told(None)))
    reader = shards.Reader(folder, shard)
    have = {text for number in range(len(shard.forms)) for text in reader[number].captions.values()}
    return have >= set(texts.values())


def _ranges(source: Source, cache: Cache) -> list[range]:
    """The items of each shard."""
    if not len(source):
        raise InputError(f"--source {cache.source}: holds no clips, expected at least one")
    starts = range(0, len(source), cache.shard_records)
    return [range(start, min(start + cache.shard_records, len(source))) for start in starts]


def _begin(folder: Folder, settings: dict[str, Any]) -> None:
    """Raises InputError if the folder was begun with other settings, saying which."""
    text = folder.read(BEGUN)
    if text is None:
        folder.write(BEGUN, json.dumps(settings, indent=1, ensure_ascii=False))
        return
    before = shards.read_json(text, folder.name(BEGUN))
    for name, now in settings.items():
        if before.get(name) != now:
            raise InputError(
                f"{folder.place}: was begun with {name} {before.get(name)!r}, now it is {now!r}; give the same to "
                "continue, or choose another folder"
            )


def _told(number: int | None) -> str:
    return "prompts.json" if number is None else f"{number:05d}.json"


def _write(
    folder: Folder, number: int | None, records: Sequence[Record], skipped: Sequence[tuple[str, str]] = ()
) -> None:
    """The shard first and what is told of it behind, so that what is told of is there."""
    file = PROMPTS if number is None else f"{number:05d}.arrayrecord"
    shard = write_shard(folder, file, records, skipped)
    folder.write(_told(number), json.dumps(shard.to_json(), ensure_ascii=False))


def _finish(folder: Folder, encoding: Encoding, source: Source, count: int) -> Index | None:
    told = {number: folder.read(_told(number)) for number in (None, *range(count))}
    if None in told.values():
        return None
    read = {n: Shard.from_json(shards.read_json(text, _told(n)), folder.name(_told(n))) for n, text in told.items()}
    prompts = read.pop(None)
    if not any(shard.forms for shard in read.values()):
        first = next(iter(read.values())).skipped[0][1]
        raise InputError(f"none of {len(source)} clips can be used, the first: {first}")
    index = Index(encoding, tuple(shard for shard in read.values() if shard.forms), prompts, source.name)
    folder.write(INDEX, json.dumps(index.to_json(), ensure_ascii=False))
    return dataclasses.replace(index, shards=tuple(read.values()))


def _summary(place: str, index: Index) -> str:
    forms = [form for shard in index.shards for form in shard.forms]
    reasons = [reason for shard in index.shards for _, reason in shard.skipped]
    poor = sum(POOR in reason for reason in reasons)
    skipped = f"{len(reasons)} clips skipped" + (f", {poor} of them for {POOR}" if poor else "")
    size = sum(shard.bytes for shard in index.shards)
    by_form = ", ".join(f"{forms.count(form):,} of {'x'.join(map(str, form))}" for form in sorted(set(forms)))
    return f"{place}: {len(forms):,} records ({by_form}), {size:,} bytes, {skipped}"


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch

    def write() -> None:
        cache = parse(Cache, args, prog="python -m lcv_jax.data.cache")
        index = cache.run()
        print(_summary(cache.out, index) if index else f"{cache.out}: part {cache.part} is done, others are not yet")

    return status(write, "start it again to continue behind the last finished shard")


if __name__ == "__main__":
    sys.exit(main())
