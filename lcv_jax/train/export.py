"""A trained run to what others read: a checkpoint in the published layout, or a LoRA file."""

import functools
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint import hub, layout
from lcv_jax.checkpoint.convert import write_shards
from lcv_jax.checkpoint.folders import appearing
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.lora import save_lora
from lcv_jax.checkpoint.tensorfile import PICKLES, TensorInfo
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.lora import LoRAConfig, init_lora
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.train import encoders
from lcv_jax.train.build import ADAPTER
from lcv_jax.train.config import FILE, read_kept
from lcv_jax.train.weights import read_trained

Tree = Any
DTYPES = ("bfloat16", "float32")


def export_run(
    step: os.PathLike[str] | str,
    dst: os.PathLike[str] | str,
    *,
    weights: str | None = None,
    dtype: str = "bfloat16",
    base: str | None = None,
    max_shard_size: int = 5_000_000_000,
) -> int:
    """Writes what a run had trained at one of its checkpoints, RUN/checkpoints/STEP. Returns the number of tensors.

    dst: a new folder. Of a transformer it becomes a whole checkpoint, whose other models are copied from `base`; of an
    autoencoder or text encoder that model's folder, to be vae/ or text_encoder/ of a checkpoint; of a LoRA it is a name
    that ends in .safetensors. weights: "ema" or "trained", None is the mean if there is one. base: None is the run's
    own config's. Host memory: the weights in `dtype`. Raises InputError; dst appears whole or not at all.
    """
    step, dst = pathlib.Path(step).absolute(), pathlib.Path(dst)
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known: expected one of {', '.join(DTYPES)}")
    if dst.exists():
        raise InputError(f"{dst}: exists already: expected a new name; choose another or delete it first")
    run = step.parents[1]
    kept = read_kept(run)
    if kept["trains"] != "dit":
        return _export_encoder(step, dst, kept, weights, dtype, max_shard_size)
    model = DiTConfig.from_json(kept["model"], where=f"{run / FILE}, model")
    if kept["lora"] is not None:
        return _export_lora(step, dst, model, LoRAConfig(**kept["lora"]), weights, dtype)
    base = base or kept["checkpoint"]
    if base is None:
        raise InputError(f"{run}: names no checkpoint with the other models: give one with --base")
    return _export_model(step, dst, model, hub.resolve(base), weights, dtype, max_shard_size)


def _export_lora(
    step: pathlib.Path, dst: pathlib.Path, model: DiTConfig, config: LoRAConfig, weights: str | None, dtype: str
) -> int:
    if dst.suffix != ".safetensors":
        raise InputError(f"{dst}: the run trained a LoRA: expected a name that ends in .safetensors")
    abstract = zoo.abstract_params(model, FLOAT32)
    shapes = jax.eval_shape(functools.partial(init_lora, config, abstract), jax.random.key(0))
    tree = read_trained(step, {ADAPTER: shapes}, weights)[ADAPTER]
    kinds = {"scale": np.dtype(np.float32)}
    rounded = jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(kinds.get(path[-1].key, jnp.dtype(dtype))), tree
    )
    dst.parent.mkdir(parents=True, exist_ok=True)
    save_lora(dst, rounded)
    return len(flatten(rounded))


def _export_model(
    step: pathlib.Path,
    dst: pathlib.Path,
    model: DiTConfig,
    base: pathlib.Path,
    weights: str | None,
    dtype: str,
    max_shard_size: int,
) -> int:
    abstract = _rounded(zoo.abstract_params(model, FLOAT32), dtype)
    params = read_trained(step, abstract, weights)
    with appearing(dst) as aside:
        _copy_others(base, aside)
        return _write_model(aside / "dit", "dit", model, params, max_shard_size)


def _export_encoder(
    step: pathlib.Path, dst: pathlib.Path, kept: Mapping[str, Any], weights: str | None, dtype: str, max_shard_size: int
) -> int:
    """dst: becomes the model's folder."""
    kind = encoders.KINDS[kept["trains"]]
    model, params = kind.exported(kept, functools.partial(read_trained, step, weights=weights))
    params = jax.tree.map(lambda x: np.asarray(x).astype(jnp.dtype(dtype)), params)
    with appearing(dst) as aside:
        return _write_model(aside, kept["trains"], model, params, max_shard_size)


def _rounded(abstract: Tree, dtype: str) -> Tree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), abstract)


def _write_model(folder: pathlib.Path, name: str, model: zoo.ModelConfig, params: Tree, max_shard_size: int) -> int:
    """One model in the published layout. Returns the number of tensors."""
    component = layout.COMPONENTS[name]
    leaves = flatten(params)
    places = {
        official: (path, place)
        for path, leaf in leaves.items()
        for official, place in component.table.names(path, len(leaf) if leaf.ndim else None)
    }

    def read(official: str) -> np.ndarray:
        path, place = places[official]
        leaf = leaves[path] if place.layer is None else leaves[path][place.layer]
        return np.ascontiguousarray(place.axes.official(leaf))

    def info(official: str) -> TensorInfo:
        path, place = places[official]
        leaf = leaves[path]
        shape = leaf.shape if place.layer is None else leaf.shape[1:]
        return TensorInfo(place.axes.official_shape(shape), np.dtype(leaf.dtype))

    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_told(component) | model.to_json(), indent=2) + "\n")
    write_shards(folder, component.stem, {n: info(n) for n in places}, read, max_shard_size)
    return len(places)


def _told(component: layout.Component) -> dict[str, Any]:
    """Whose file a config.json is, as transformers writes it of the text encoder, and diffusers of the others."""
    if component.config is UMT5Config:
        return {"architectures": [component.kind]}
    return {"_class_name": component.kind}


def _copy_others(base: pathlib.Path, aside: pathlib.Path) -> None:
    """All of a checkpoint but its DiT, and the LoRAs, which belong to that."""
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        folder = layout.folder(base, name)
        pickles = [file.name for file in folder.rglob("*") if file.suffix.lower() in PICKLES]
        shutil.copytree(folder, aside / name, ignore=lambda _, names, p=tuple(pickles): {n for n in names if n in p})
