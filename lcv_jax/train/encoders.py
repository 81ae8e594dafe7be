"""Runs that train what stands around the transformer: the autoencoder of videos, the text encoder."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data.batching import Stream
from lcv_jax.data.clip_batches import ClipLoader, ClipSet, ClipSettings, HostClips
from lcv_jax.data.images import to_model
from lcv_jax.data.text import Tokenizer
from lcv_jax.data.toy.caption_batches import CaptionBatches, Captions
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae import WanVAE
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.objectives.autoencoder import Autoencode, Frames
from lcv_jax.objectives.caption_reading import ENCODER, READER, CaptionReading, init_reader
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.sample.encoders import tokenizer_fingerprint
from lcv_jax.train.config import CaptionSettings, TextTrainConfig, VAETrainConfig
from lcv_jax.train.feed import Feed, Put, check_divides, rows_like, rows_of
from lcv_jax.train.programs import Kind
from lcv_jax.train.state import TrainState
from lcv_jax.train.training import Training, assembled, computing, keys
from lcv_jax.train.weights import read_model

Tree = Any
_MEASURED = 32
"""Batches whose latents an export measures."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class VAETraining(Training):
    config: VAETrainConfig

    @classmethod
    def of(cls, config: VAETrainConfig) -> "VAETraining":
        """Opens the clips, and checks all that can be without weights. Raises InputError."""
        placement = placed(config.mesh, ("data", "fsdp"))
        shapes = zoo.abstract_params(config.model, FLOAT32)
        objective = Autoencode(WanVAE(config.model, computing(config)), config.weights)
        loader = clips(config.data, config, placement)
        kinds = {}
        for stream, one in zip(loader.streams, config.data.sets, strict=True):
            check_divides(stream, config.accumulate, placement, f"data.sets.{stream.name}.batch to that")
            frames, sides = stream.form[0], one.window or stream.form[1:]
            batch = Frames(rows_like(placement, one.batch, (frames, *sides, config.model.in_channels), jnp.uint8))
            latents = config.model.latent_frames(frames) * sides[0] * sides[1] // config.model.spatial_factor**2
            name = f"{one.batch} x {frames} frames of {sides[0]}x{sides[1]}"
            kinds.setdefault(batch.frames.shape, Kind(name, batch, one.batch * latents))
        return cls(
            **assembled(config, objective, shapes, placement.params(config.model, shapes)),
            placement=placement,
            feed=Feed(loader, placement, _frames),
            kinds=tuple(kinds.values()),
            streams=loader.streams,
        )

    def start(self) -> TrainState:
        if self.config.init is not None:
            params = read_model(self.config.init, self.config.model, self.abstract.trained)
            return self.created(lambda tree: tree, params, donate_argnums=0)
        return self.created(functools.partial(zoo.init_params, self.config.model, FLOAT32), keys(self.config.seed)[0])

    @staticmethod
    def exported(kept: Mapping[str, Any], read: Callable[[Tree], Tree]) -> tuple[VAEConfig, Tree]:
        """The model that a run trained. kept: its config as JSON. read: its parameters, given shapes.

        The statistics of latents are measured on clips of the run's data that it has hardly seen: its own with another
        seed, whole instead of windows of them.
        """
        model = _again(VAEConfig, kept["model"], "model")
        data = _again(ClipSettings, kept["data"], "data")
        sets = (dataclasses.replace(_again(ClipSet, one, "data.sets"), window=None) for one in data.sets)
        settings = dataclasses.replace(data, sets=tuple(sets), seed=data.seed + 1)
        loader = ClipLoader(settings, (model.temporal_factor, model.spatial_factor))
        params = read(zoo.abstract_params(model, FLOAT32))
        mean, std = statistics(VAECoder(model, FLOAT32), params, loader)
        return dataclasses.replace(model, latents_mean=mean, latents_std=std), params


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextTraining(Training):
    config: TextTrainConfig

    @classmethod
    def of(cls, config: TextTrainConfig) -> "TextTraining":
        """Opens the tokenizer, and checks all that can be without weights. Raises InputError."""
        if config.init is not None:
            raise InputError(f"init={config.init!r}: the text encoder's reader is in no checkpoint; leave it out")
        placement = placed(config.mesh, ("data", "fsdp", "tensor"))
        loader = CaptionRows.of(config.data, config.model, placement)
        leaf = functools.partial(rows_like, placement, config.data.batch)
        one = jax.tree.map(lambda x: leaf(x.shape[1:], x.dtype), loader.peek())
        shapes = jax.eval_shape(functools.partial(_with_reader, config.model), jax.random.key(0))
        whole = jax.tree.map(lambda _: placement.replicated, shapes)
        shardings = whole | {ENCODER: placement.params(config.model, shapes[ENCODER])}
        stream = Stream("captions", 0, (1, 1, config.data.tokens), np.arange(1), config.data.batch, 1.0)
        check_divides(stream, config.accumulate, placement, "data.batch to that")
        objective = CaptionReading(UMT5Encoder(config.model, computing(config)))
        name = f"{config.data.batch} captions of {config.data.tokens} tokens"
        return cls(
            **assembled(config, objective, shapes, shardings),
            placement=placement,
            feed=Feed(loader, placement, lambda host, put: jax.tree.map(put, host.captions)),
            kinds=(Kind(name, one, config.data.batch * config.data.tokens),),
            streams=(stream,),
        )

    def start(self) -> TrainState:
        return self.created(functools.partial(_with_reader, self.config.model), keys(self.config.seed)[0])

    @staticmethod
    def exported(kept: Mapping[str, Any], read: Callable[[Tree], Tree]) -> tuple[UMT5Config, Tree]:
        """The model that a run trained, without its reader. kept: its config as JSON. read: what it trained, given
        shapes."""
        model = _again(UMT5Config, kept["model"], "model")
        return model, read(jax.eval_shape(functools.partial(_with_reader, model), jax.random.key(0)))[ENCODER]


def _with_reader(model: UMT5Config, key: jax.Array) -> Tree:
    one, two = jax.random.split(key)
    return {ENCODER: zoo.init_params(model, FLOAT32, one), READER: init_reader(model, two)}


@dataclasses.dataclass(frozen=True)
class HostCaptions:
    """This host's rows of one batch. size: captions over all hosts."""

    captions: Captions
    size: int


@dataclasses.dataclass(frozen=True)
class CaptionRows:
    """Batches of captions as this host's rows of them. Every host writes all captions, which costs next to nothing.
    tokenizer: its fingerprint."""

    batches: CaptionBatches
    rows: Sequence[int]
    tokenizer: str
    damaged: int = 0

    @classmethod
    def of(cls, data: CaptionSettings, model: UMT5Config, placement: MeshPlacement) -> "CaptionRows":
        """Raises InputError where the model has fewer rows than the tokenizer ids."""
        tokenizer = Tokenizer.open(data.tokenizer)
        if model.vocab_size < tokenizer.token_ids:
            raise InputError(
                f"{data.tokenizer}: has {tokenizer.token_ids} ids, vocab_size is {model.vocab_size}: expected at "
                "least as many; give another tokenizer, or --model.vocab-size"
            )
        batches = CaptionBatches(tokenizer, data.batch, data.seed, tokens=data.tokens)
        return cls(batches, rows_of(placement)(data.batch), tokenizer_fingerprint(data.tokenizer))

    def peek(self) -> Captions:
        """The next batch, which stays the next, of all hosts."""
        at = self.batches.get_state()
        captions = next(self.batches)
        self.batches.set_state(at)
        return captions

    def __next__(self) -> HostCaptions:
        captions = next(self.batches)
        return HostCaptions(jax.tree.map(lambda x: x[list(self.rows)], captions), len(captions.ids))

    def get_state(self) -> dict[str, Any]:
        """Of JSON's types."""
        return {"captions": self.batches.get_state(), "tokenizer": self.tokenizer}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues behind a state. Raises InputError if captions were read by another tokenizer then."""
        if set(state) != {"captions", "tokenizer"} or state["tokenizer"] != self.tokenizer:
            raise InputError(
                f"the checkpoint's captions were read by another tokenizer: {state.get('tokenizer')} then, "
                f"{self.tokenizer} now; give the same, or start a new run"
            )
        self.batches.set_state(state["captions"])


def placed(mesh: str, cut: Sequence[str]) -> MeshPlacement:
    """The mesh of a run whose batches and parameters only these axes cut. Raises InputError where another has several
    devices, which would all do the same."""
    made = MeshConfig.parse(mesh).make()
    idle = [f"{axis}={size}" for axis, size in made.shape.items() if size > 1 and axis not in cut]
    if idle:
        raise InputError(f"mesh {mesh!r}: {', '.join(idle)} would repeat work: expected {', '.join(cut)} alone")
    return MeshPlacement(made, TRAINING)


def statistics(coder: VAECoder, params: Tree, loader: ClipLoader) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of raw latents, over some batches; z numbers each, of six digits.

    Clips are encoded one at a time, as a stream, so that they may be larger than what was trained on.
    """
    params, count = jax.device_put(params), 0
    sums = np.zeros((2, coder.config.z_dim))
    for clip in (clip for _ in range(_MEASURED) for clip in next(loader).frames):
        for posterior in coder.encode_stream(params, [to_model(clip[None])]):
            latents = np.asarray(posterior.mean, np.float64).reshape(-1, coder.config.z_dim)
            sums += latents.sum(axis=0), np.square(latents).sum(axis=0)
            count += len(latents)
    mean = sums[0] / count
    std = np.sqrt(np.maximum(sums[1] / count - np.square(mean), 0))
    return tuple(float(f"{x:.6g}") for x in mean), tuple(float(f"{x:.6g}") for x in std)


def _again(kind: type, kept: Any, name: str) -> Any:
    """A frozen value from what a run's config.json has of it."""
    try:
        return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()})
    except (AttributeError, TypeError) as error:
        raise InputError(f"config.json, {name}: {error}: expected the config that the run began with") from error


def clips(settings: ClipSettings, config: VAETrainConfig, placement: MeshPlacement) -> ClipLoader:
    """The clips of a run, this host's rows of them. Raises InputError."""
    model = config.model
    if model.in_channels != 3 or model.out_channels != 3:
        raise InputError(f"model: {model.in_channels} channels in, {model.out_channels} out; clips have 3")
    return ClipLoader(settings, (model.temporal_factor, model.spatial_factor), rows=rows_of(placement))


def _frames(host: HostClips, put: Put) -> Frames:
    return Frames(put(host.frames))


KINDS = {VAETrainConfig.trains: VAETraining, TextTrainConfig.trains: TextTraining}
"""By what a run trains."""
