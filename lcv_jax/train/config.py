"""What a training run is made of, as one frozen value: configs/ holds recipes, the command line changes single fields.

Mesh, rematerialisation, lengths and places of files may change when a run is resumed; everything else decides what is
computed, and stays.
"""

import dataclasses
import fnmatch
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from lcv_jax.checkpoint import layout
from lcv_jax.command_line import run_recipe
from lcv_jax.data.clip_batches import ClipSettings
from lcv_jax.data.files import replacing
from lcv_jax.data.loader import Settings
from lcv_jax.errors import InputError
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.models.remat import Remat
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.objectives.autoencoder import Weights
from lcv_jax.objectives.cfg_distill import CFGDistillation
from lcv_jax.objectives.consistency import Consistency
from lcv_jax.objectives.pretrain import Pretraining
from lcv_jax.objectives.refine import Refinement
from lcv_jax.train.optimizer import AdamW, Muon

FILE = "config.json"


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Cached datasets and how they are read.

    paths: folders that lcv_jax.data.cache wrote, local or gs://, s3://; or "toy:COUNT HxWxF HxWxF@WEIGHT ...", the toy
    world encoded while training. weights: of the datasets, their shares of the
    batches; () is the same for all. batches: what decides their content. fetched: local folder for the shards of an
    object store. threads, ahead: that read, and how many batches at most.
    """

    paths: tuple[str, ...]
    batches: Settings
    weights: tuple[float, ...] = ()
    fetched: str | None = None
    threads: int = 4
    ahead: int = 4


@dataclasses.dataclass(frozen=True)
class SparseConfig:
    """Block sparse attention in training: blocks of (t, h, w) tokens, share of the key blocks left out."""

    block: tuple[int, int, int] = (4, 4, 4)
    sparsity: float = 0.9375


@dataclasses.dataclass(frozen=True)
class SampleConfig:
    """Videos made while training, with the running mean of the parameters where there is one.

    every: steps; 0 makes none. prompts: of the videos. height, width: in pixels. frames: 4n + 1; 1 makes pictures.
    distilled: by the distilled schedule, with the LoRA that is trained as the one that belongs to it.
    """

    every: int = 0
    prompts: tuple[str, ...] = ()
    height: int = 480
    width: int = 832
    frames: int = 93
    steps: int = 50
    guidance: float = 4.0
    distilled: bool = False
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every run has, whatever it trains. The command line has every field: --optimizer.rate 5e-5.

    optimizer: AdamW or Muon. steps: of the whole run. init: weights to begin with, of a checkpoint, or of a run's
    checkpoints/STEP, its running mean if it has one; None is an untrained model. accumulate: micro-batches of a step.
    ema_decay: None keeps no mean. dtype: of computation, by default bfloat16, on a CPU float32; what is trained is
    float32.
    """

    trains: ClassVar[str]
    """Which of a checkpoint's models."""
    optimizer: AdamW | Muon
    steps: int
    init: str | None = None
    accumulate: int = 1
    ema_decay: float | None = 0.9999
    dtype: Literal["bfloat16", "float32"] | None = None
    seed: int = 0
    save_every: int = 1000
    log_every: int = 10
    keep: int = 3
    mesh: str = "data=-1"

    def to_json(self) -> dict[str, Any]:
        """Of JSON's types."""
        return {"trains": self.trains} | json.loads(json.dumps(dataclasses.asdict(self)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """A run that trains the transformer, or a LoRA of it.

    model: the DiT. data: see DataConfig. checkpoint: where the autoencoder, text encoder, tokenizer and schedule are
    that belong to the data; samples and exports need it. lora: train adapters of `init` instead of the model itself.
    init_lora: a LoRA file, or RUN/checkpoints/STEP, that the adapters begin with; None is adapters that change nothing.
    objective: what is minimised. attention: block sparse instead of dense. remat: what blocks keep for the backward
    pass.
    """

    trains = "dit"
    model: DiTConfig
    data: DataConfig
    checkpoint: str | None = None
    objective: Pretraining | CFGDistillation | Consistency | Refinement = dataclasses.field(default_factory=Pretraining)
    lora: LoRAConfig | None = None
    init_lora: str | None = None
    attention: SparseConfig | None = None
    remat: Remat = Remat.FULL
    samples: SampleConfig = dataclasses.field(default_factory=SampleConfig)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VAETrainConfig(RunConfig):
    """A run that trains an autoencoder. model: its latents_mean and latents_std are not looked at; an export measures
    them. data: clips, and windows of them. weights: of the parts of the loss."""

    trains = "vae"
    model: VAEConfig
    data: ClipSettings
    weights: Weights = dataclasses.field(default_factory=Weights)


@dataclasses.dataclass(frozen=True)
class CaptionSettings:
    """Captions of the toy world, in all its languages. tokenizer: its folder. batch: captions of each, all hosts.
    tokens: that they are padded to. seed: of all that is drawn."""

    tokenizer: str
    batch: int = 64
    tokens: int = 48
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTrainConfig(RunConfig):
    """A run that trains the toy world's text encoder. data: captions, and the tokenizer that reads them."""

    trains = "text_encoder"
    model: UMT5Config
    data: CaptionSettings


MAY_CHANGE = (
    "steps",
    "save_every",
    "log_every",
    "keep",
    "mesh",
    "remat",
    "model/bsa_params",  # of sampling; a run's own is `attention`
    "checkpoint",
    "init",
    "init_lora",
    "samples",
    "data/paths",
    "data/tokenizer",
    "data/fetched",
    "data/threads",
    "data/ahead",
    "data/max_damaged",
    "data/batches/max_damaged",
    "prompts/source",
    "accumulate",
    "rollout/parts",
    "patience",
    *(f"rewards/*/{name}" for name in ("url", "path", "device", "timeout_s", "retries", "batch")),
)
"""What a resumed run may have otherwise, * for any: it changes no number but by rounding. Whether the data are the same
is compared by their content (data/loader.py, train/prompts.py). Not `init` and `init_lora` where a run goes on reading
them: see `_frozen`."""


def read_recipe(path: os.PathLike[str] | str) -> tuple[RunConfig, str]:
    """Runs a recipe, a Python file with a function `config() -> RunConfig`; returns that and the file's docstring."""
    made, about = run_recipe(path)
    if not isinstance(made, RunConfig):
        raise InputError(f"{path}: config() gave {type(made).__name__}, expected one of a run, such as a TrainConfig")
    return made, about


def keep(run: pathlib.Path, config: RunConfig, *, resumed: bool) -> None:
    """Writes the config into a run's folder. Raises InputError if a run that is resumed was begun with another, saying
    what changed."""
    file = run / FILE
    if resumed:
        before = read_kept(run)
        if before["trains"] != config.trains:
            raise InputError(
                f"{run}: holds a run that trains {before['trains']}, this trains {config.trains}; choose another --out"
            )
        changed = [
            f"{path} was {old!r}, is {new!r}"
            for path, old, new in _differences(before, config.to_json())
            if path in _frozen(config)
            or not any(fnmatch.fnmatchcase(path, may) or path.startswith(f"{may}/") for may in MAY_CHANGE)
        ]
        if changed:
            raise InputError(f"{run}: was begun with another config: {'; '.join(changed)}; choose another --out")
    with replacing(file) as aside:
        aside.write_text(json.dumps(config.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def _frozen(config: RunConfig) -> set[str]:
    """Weights that a resumed run reads again, as it does not train them: the model under a LoRA, a teacher's LoRA."""
    objective = getattr(config, "objective", None)
    found = {"init"} if getattr(config, "lora", None) is not None else set()
    return found | ({"init_lora"} if "reference" in getattr(objective, "reads", ()) else set())


def read_kept(run: pathlib.Path) -> dict[str, Any]:
    """The config of a run's folder as JSON."""
    try:
        value = json.loads((run / FILE).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{run / FILE}: cannot be read ({error}); expected the config that the run began with"
        ) from error
    if not isinstance(value, dict) or value.get("trains") not in layout.COMPONENTS:
        raise InputError(f'{run / FILE}: expected a JSON object, and "trains" in it: {", ".join(layout.COMPONENTS)}')
    return value


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{path}/{name}" if path else name)
    elif _are_settings(old) and _are_settings(new) and len(old) == len(new):
        for i, pair in enumerate(zip(old, new, strict=True)):
            yield from _differences(*pair, f"{path}/{i}")
    elif old != new:
        yield path, old, new


def _are_settings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)
