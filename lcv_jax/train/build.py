"""Puts a run of the transformer together from its config: mesh, model, state, step and data."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.checkpoint import hub, layout
from lcv_jax.data.loader import Loader, Reads, Samples
from lcv_jax.data.records import DTYPES
from lcv_jax.data.shards import Dataset
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.lora import init_lora
from lcv_jax.models.precision import FLOAT32, Precision
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Trees
from lcv_jax.ops.attention import dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.sample.encoders import NAMES, Encoders, fingerprint
from lcv_jax.train.config import TrainConfig
from lcv_jax.train.feed import Feed, abstract_batch, check_divides, latents_batch, rows_of
from lcv_jax.train.live import LiveToy, is_live
from lcv_jax.train.programs import Kind
from lcv_jax.train.state import TrainState
from lcv_jax.train.training import Training, assembled, computing, keys
from lcv_jax.train.weights import read_lora, read_model

Tree = Any
ADAPTER = "trained"
"""Name of the LoRA that a run trains, among active ones."""
_READ = {
    "lora": ("lora", "trains adapters of the model that teaches it: give a LoRAConfig"),
    "reference": ("init_lora", "has a teacher with the LoRA that the run begins with: give --init-lora"),
    "ema": ("ema_decay", "learns from the running mean of what it trains: give --ema-decay, such as 0.95"),
}
"""By what an objective reads, the field of the config that it needs, and why."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DiTTraining(Training):
    """model: the DiT on the mesh."""

    config: TrainConfig
    model: DiT

    @classmethod
    def of(cls, config: TrainConfig) -> "DiTTraining":
        """Opens the data, and checks all that can be without weights. Raises InputError."""
        _check(config)
        placement = MeshPlacement(MeshConfig.parse(config.mesh).make(), TRAINING)
        datasets = open_data(config)
        model = make_model(config, placement)
        data = config.data
        loader = Loader(
            datasets,
            data.weights or (1.0,) * len(datasets),
            data.batches,
            reads=config.objective.records,
            patch=config.model.patch_size,
            rows=rows_of(placement),
            threads=data.threads,
            ahead=data.ahead,
        )
        _check_prompts(config, loader)
        if config.objective.records is Reads.PAIRS:
            _check_padding(config, datasets)
        objective = config.objective.of(model)
        trained = "params" if config.lora is None else "lora"
        return cls(
            **assembled(config, objective, *_trained(config, placement), trained),
            placement=placement,
            model=model,
            feed=Feed(loader, placement, latents_batch),
            kinds=_kinds(config, loader, datasets, placement),
            streams=loader.streams,
        )

    def start(self) -> TrainState:
        config = self.config
        if config.init is not None and config.lora is None:
            params = read_model(config.init, config.model, self.abstract.trained)
            return self.created(lambda tree: tree, params, donate_argnums=0)
        if config.init_lora is not None:
            return self.created(lambda tree: tree, self._first_lora(), donate_argnums=0)
        return self.created(functools.partial(_untrained, config), keys(config.seed)[0])

    def given(self) -> Trees:
        """The prompts that the objective reads; under a LoRA the model, in the dtype of computation, and, where they
        are read, the adapters that the run began with."""
        config, put, prompts = self.config, self.placement.put, {}
        for name, text in config.objective.prompts.items():
            states = self.feed.loader.prompts[text]
            prompts[name] = TextStates(put(states[None]), put(jnp.ones((1, len(states)), bool)))
        if config.lora is None:
            return Trees(prompts=prompts)
        shapes = zoo.abstract_params(config.model, precision_of(config))
        abstract = jax.tree.map(_placed, shapes, self.placement.params(config.model, shapes))
        params = read_model(config.init, config.model, abstract)
        reference = self._first_lora() if "reference" in config.objective.reads else None
        return Trees(params=params, reference=reference, prompts=prompts)

    def _first_lora(self) -> Tree:
        """The adapters of config.init_lora, on their shards."""
        return read_lora(self.config.init_lora, self.config.model, self.abstract.trained)

    def trees(self, state: TrainState, given: Trees, *, ema: bool = True) -> Trees:
        """All trees that the objective reads, with the running mean of what is trained if there is one."""
        tree = state.ema if ema and state.ema is not None else state.trained
        return dataclasses.replace(given, **{self.trained: tree})


def _check(config: TrainConfig) -> None:
    """What can be refused before anything is opened."""
    s = config.samples
    if s.every and (config.checkpoint is None or not s.prompts):
        raise InputError("samples.every is set: expected a checkpoint with the encoders, and samples.prompts, as well")
    for name in config.objective.reads:
        field, why = _READ[name]
        if getattr(config, field) is None:
            raise InputError(f"{field} is not set: {type(config.objective).__name__} {why}")
    if config.init_lora is not None and config.lora is None:
        raise InputError("init_lora without lora: expected what is trained to be a LoRA; set lora, or leave it out")
    if config.checkpoint is None:
        return
    folder, wanted = hub.resolve(config.checkpoint), config.objective.schedule
    if wanted is not None and (have := layout.read_schedule(folder)) != wanted:
        raise InputError(
            f"objective: trains for sampling with shift={wanted.shift}, {folder} has shift={have.shift}: expected the "
            f"same; give --objective.shift {have.shift}"
        )


def _check_prompts(config: TrainConfig, loader: Loader) -> None:
    """Raises InputError unless the data hold the prompts that the objective reads."""
    for name, text in config.objective.prompts.items():
        if text not in loader.prompts:
            raise InputError(
                f"data: hold no states of the {name} prompt {text!r}, which {type(config.objective).__name__} reads: "
                "write one of the caches again with --negative-prompt as that; clips that are encoded stay as they are"
            )


def _check_padding(config: TrainConfig, datasets: Sequence[Samples]) -> None:
    """Raises InputError unless pairs are padded as the model's sampling pads what it refines."""
    wanted = config.model.latent_multiple
    for dataset in datasets:
        multiple = dataset.encoding.pairs.multiple
        if multiple != wanted:
            raise InputError(
                f"{dataset.place}: pairs are padded to multiples of {multiple} latents, but sampling with the model's "
                f"sparse blocks pads to {wanted}: cache them with --latent-multiple {wanted}"
            )


def open_data(config: TrainConfig) -> list[Samples]:
    """The datasets, each fitting the model and the checkpoint's encoders. Raises InputError."""
    encoders = None
    if config.checkpoint is not None:
        encoders = Encoders.open(
            config.checkpoint, MeshPlacement(MeshConfig().make(jax.local_devices()), TRAINING), config.dtype
        )
    datasets = [_open(path, config, encoders) for path in config.data.paths]
    weights = config.data.weights
    if weights and len(weights) != len(datasets):
        raise InputError(f"data: {len(weights)} weights for {len(datasets)} paths: expected one each, or none")
    for dataset in datasets:
        made = dataset.encoding
        for name, have, want in (
            ("latents of channels", made.channels, config.model.in_channels),
            ("text states of width", made.text_width, config.model.caption_channels),
        ):
            if have != want:
                raise InputError(
                    f"{dataset.place}: holds {name} {have}, the model takes {want}: cache it for this model"
                )
    if encoders is not None:
        check_encoders(encoders.folder, encoders.files, datasets)
    return datasets


def _open(path: str, config: TrainConfig, encoders: Encoders | None) -> Samples:
    if not is_live(path):
        return Dataset(path, config.data.fetched)
    if encoders is None:
        raise InputError(f"data, {path}: is encoded while training: expected a checkpoint with the encoders as well")
    return LiveToy(path, encoders, config.data.batches.text_tokens, seed=config.data.batches.seed)


def check_encoders(folder: pathlib.Path, files: Mapping[str, layout.Model], datasets: Sequence[Samples]) -> None:
    """Raises InputError unless the datasets were encoded with the autoencoder and text encoder among these models."""
    made = {name: fingerprint(files[name]) for name in NAMES}
    for dataset in datasets:
        for name, ours in made.items():
            theirs = getattr(dataset.encoding, name)
            if theirs != ours:
                raise InputError(
                    f"{dataset.place}: was encoded with another {name} ({theirs}) than {folder} has ({ours}): "
                    "give the checkpoint it was cached with, or cache it again"
                )


def precision_of(config: TrainConfig) -> Precision:
    """Of computation, with parameters of the same dtype; what is trained is float32 all the same."""
    return Precision.named(config.dtype)


def make_model(config: TrainConfig, placement: MeshPlacement) -> DiT:
    """The DiT with float32 parameters on the mesh."""
    dense = placement.attention(dense_attention)
    attention = dense
    if config.attention is not None:
        block = config.attention.block
        attention = placement.attention(BlockSparseAttention(block, block, config.attention.sparsity))
    return DiT(config.model, computing(config), attention, dense, placement, config.remat)


def _untrained(config: TrainConfig, key: jax.Array) -> Tree:
    """What a new run trains: the model's parameters, or adapters that change nothing yet."""
    if config.lora is None:
        return zoo.init_params(config.model, FLOAT32, key)
    return {ADAPTER: init_lora(config.lora, zoo.abstract_params(config.model, FLOAT32), key)}


def _trained(config: TrainConfig, placement: MeshPlacement) -> tuple[Tree, Tree]:
    """Shapes and shardings of what is trained."""
    if config.lora is not None and config.init is None:
        raise InputError("lora without init: adapters need the model they adapt; give --init CHECKPOINT")
    shapes = jax.eval_shape(functools.partial(_untrained, config), jax.random.key(0))
    if config.lora is None:
        return shapes, placement.params(config.model, shapes)
    model = zoo.abstract_params(config.model, FLOAT32)
    return shapes, {name: placement.lora(config.model, model, tree) for name, tree in shapes.items()}


def _placed(shape: jax.ShapeDtypeStruct, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)


def _kinds(config: TrainConfig, loader: Loader, datasets: list[Samples], placement: MeshPlacement) -> tuple[Kind, ...]:
    """Batches that differ in shape or in the frames given; streams of several datasets may be of one kind."""
    encoding, batches = datasets[0].encoding, config.data.batches
    text = jax.ShapeDtypeStruct((batches.text_tokens, encoding.text_width), DTYPES[encoding.dtype])
    kinds = {}
    for stream, task, num_cond in loader.batches():
        check_divides(stream, config.accumulate, placement, "data.batches.multiple to that")
        batch = abstract_batch(stream, num_cond, encoding.channels, text, placement, config.objective.records)
        (T, h, w), (t, p, q) = stream.form, config.model.patch_size
        name = f"{stream.batch} x {T}x{h}x{w} {task}" + (f" behind {num_cond}" if num_cond else "")
        kinds.setdefault((stream.form, num_cond), Kind(name, batch, stream.batch * T // t * (h // p) * (w // q)))
    return tuple(kinds.values())
