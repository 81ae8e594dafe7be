"""Which folders a checkpoint has, and what belongs into each: the official layout, and ours beside it.

dit/  vae/  text_encoder/      a model: config.json, and safetensors (official) or params/ (ours, Orbax)
tokenizer/  scheduler/  lora/  the same files in both
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

from lcv_jax.checkpoint.load import Leaf, Params, plan
from lcv_jax.checkpoint.source import SafetensorsSource, Source, read_json
from lcv_jax.checkpoint.store import PARAMS, OrbaxSource
from lcv_jax.checkpoint.table import DIT, UMT5, VAE, Table
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae_config import VAEConfig


@dataclasses.dataclass(frozen=True)
class Component:
    """One model of a checkpoint.

    name: of its folder. kind: what the published config.json calls the class. stem: of the official files'
    names. dtype: what an import makes of it unless told otherwise; None keeps the source's.
    """

    name: str
    kind: str
    table: Table
    config: type
    stem: str
    dtype: str | None


COMPONENTS = {
    c.name: c
    for c in (
        Component("dit", "LongCatVideoTransformer3DModel", DIT, DiTConfig, "diffusion_pytorch_model", "bfloat16"),
        Component("vae", "AutoencoderKLWan", VAE, VAEConfig, "diffusion_pytorch_model", None),
        Component("text_encoder", "UMT5EncoderModel", UMT5, UMT5Config, "model", "bfloat16"),
    )
}


@dataclasses.dataclass(frozen=True)
class Model:
    """One component's folder whose headers have been compared with its config."""

    component: Component
    source: Source
    config: object
    abstract: Params
    leaves: tuple[Leaf, ...]

    @property
    def config_file(self) -> pathlib.Path:
        return self.source.path / "config.json"


def find(root: os.PathLike[str] | str) -> dict[str, pathlib.Path]:
    """The model folders of a checkpoint, in either layout; raises InputError when there are none."""
    root = pathlib.Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder: expected a checkpoint with {_names()}; check the path")
    found = {name: root / name for name in COMPONENTS if (root / name).is_dir()}
    if not found:
        raise InputError(f"{root}: not a checkpoint: expected folders {_names()}; check the path")
    return found


def folder(root: os.PathLike[str] | str, name: str) -> pathlib.Path:
    """The folder of one component, which must be there; name: a model's, or tokenizer, scheduler, lora."""
    path = pathlib.Path(root) / name
    if not path.is_dir():
        raise InputError(f"{path}: folder is missing: expected the checkpoint's {name}; complete the download")
    return path


def is_model(path: os.PathLike[str] | str) -> bool:
    """Whether `path` is one model's folder and not a whole checkpoint."""
    path = pathlib.Path(path)
    return (path / "config.json").is_file() and not any((path / name).is_dir() for name in COMPONENTS)


def open_models(root: os.PathLike[str] | str) -> dict[str, Model]:
    """All models of a whole checkpoint, every header checked; raises InputError on a missing one."""
    find(root)
    return {name: open_model(component, folder(root, name)) for name, component in COMPONENTS.items()}


def read_schedule(root: os.PathLike[str] | str) -> ScheduleConfig:
    """The schedule of a whole checkpoint; raises InputError on one that we do not sample."""
    file = folder(root, "scheduler") / "scheduler_config.json"
    return ScheduleConfig.from_json(read_json(file), where=str(file))


def check_together(models: Mapping[str, Model], tokenizer: os.PathLike[str] | str, token_ids: int) -> None:
    """Raises InputError unless the three models and the tokenizer can belong to one checkpoint.

    models: by name. tokenizer: its folder, for the message. token_ids: one more than its largest id, each of which
    needs a row of the text encoder's embedding.
    """
    dit, vae, text = (models[name] for name in ("dit", "vae", "text_encoder"))
    pairs = (
        (dit, "in_channels", vae, "z_dim"),
        (dit, "out_channels", vae, "z_dim"),
        (dit, "caption_channels", text, "d_model"),
    )
    for one, key, other, other_key in pairs:
        value, expected = getattr(one.config, key), getattr(other.config, other_key)
        if value != expected:
            raise InputError(
                f"{one.config_file}: {key}={value}, but {other_key}={expected} in {other.config_file}: expected equal "
                f"numbers; take {one.component.name}/ and {other.component.name}/ from one checkpoint"
            )
    if text.config.vocab_size < token_ids:
        raise InputError(
            f"{text.config_file}: vocab_size={text.config.vocab_size}, but {tokenizer} has ids up to {token_ids - 1}: "
            f"expected at least {token_ids}; take text_encoder/ and tokenizer/ from one checkpoint"
        )


def open_source(path: os.PathLike[str] | str) -> Source:
    """The tensors of one model's folder, in whichever layout it is."""
    path = pathlib.Path(path)
    return OrbaxSource(path) if (path / PARAMS).is_dir() else SafetensorsSource(path)


def component_of(path: os.PathLike[str] | str) -> Component:
    """Which component a model's folder holds: by its config.json, else by the folder's name."""
    path = pathlib.Path(path)
    config = read_json(path / "config.json")
    kinds = [config.get("_class_name"), *(config.get("architectures") or ())]
    for component in COMPONENTS.values():
        if component.kind in kinds:
            return component
    if path.name in COMPONENTS:
        return COMPONENTS[path.name]
    raise InputError(
        f"{path / 'config.json'}: key '_class_name' is {config.get('_class_name')!r}, expected one of "
        f"{', '.join(c.kind for c in COMPONENTS.values())}: this is not a model of the project"
    )


def read_config(component: Component, path: pathlib.Path) -> object:
    """The config of one component's folder; errors name the file."""
    file = path / "config.json"
    return component.config.from_json(read_json(file), where=str(file))


def open_model(component: Component, path: os.PathLike[str] | str) -> Model:
    """Opens one component and checks every header against its config, before any tensor is read."""
    path = pathlib.Path(path)
    config = read_config(component, path)
    source = open_source(path)
    abstract = zoo.abstract_params(config)
    return Model(component, source, config, abstract, plan(source, component.table, abstract))


def _names() -> str:
    return ", ".join(f"{name}/" for name in COMPONENTS)
