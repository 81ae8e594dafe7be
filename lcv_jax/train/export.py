"""A trained run to what others read: a checkpoint in the published layout, or a LoRA file."""

import functools
import json
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint import hub, layout
from lcv_jax.checkpoint.convert import write_shards
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.lora import save_lora
from lcv_jax.checkpoint.tensorfile import PICKLES, TensorInfo
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.lora import LoRAConfig, init_lora
from lcv_jax.models.precision import FLOAT32
from lcv_jax.train.build import ADAPTER
from lcv_jax.train.config import FILE, read_kept
from lcv_jax.train.weights import read_trained

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

    dst: a new folder for a whole checkpoint, whose other models are copied from `base`; of a LoRA a name that ends in
    .safetensors. weights: "ema" or "trained", None is the mean if there is one. base: None is the run's own config's.
    Host memory: the weights in `dtype`. Raises InputError; dst appears whole or not at all.
    """
    step, dst = pathlib.Path(step).absolute(), pathlib.Path(dst)
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known: expected one of {', '.join(DTYPES)}")
    if dst.exists():
        raise InputError(f"{dst}: exists already: expected a new name; choose another or delete it first")
    run = step.parents[1]
    kept = read_kept(run)
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
    component = layout.COMPONENTS["dit"]
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), zoo.abstract_params(model, FLOAT32)
    )
    leaves = flatten(read_trained(step, abstract, weights))
    places = {
        name: (path, place)
        for path, leaf in leaves.items()
        for name, place in component.table.names(path, len(leaf) if leaf.ndim else None)
    }

    def read(name: str) -> np.ndarray:
        path, place = places[name]
        leaf = leaves[path] if place.layer is None else leaves[path][place.layer]
        return np.ascontiguousarray(place.axes.official(leaf))

    def info(name: str) -> TensorInfo:
        path, place = places[name]
        leaf = leaves[path]
        shape = leaf.shape if place.layer is None else leaf.shape[1:]
        return TensorInfo(place.axes.official_shape(shape), np.dtype(leaf.dtype))

    aside = dst.with_name(f"{dst.name}.tmp-{os.getpid()}")
    try:
        _copy_others(base, aside)
        (aside / component.name).mkdir()
        told = {"_class_name": component.kind} | model.to_json()
        (aside / component.name / "config.json").write_text(json.dumps(told, indent=2) + "\n")
        write_shards(aside / component.name, component.stem, {n: info(n) for n in places}, read, max_shard_size)
        aside.rename(dst)
    except OSError as error:
        raise InputError(f"{dst}: cannot be written ({error}): make room, or choose another place") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return len(places)


def _copy_others(base: pathlib.Path, aside: pathlib.Path) -> None:
    """All of a checkpoint but its DiT, and the LoRAs, which belong to that."""
    for name in ("vae", "text_encoder", "tokenizer", "scheduler"):
        folder = layout.folder(base, name)
        pickles = [file.name for file in folder.rglob("*") if file.suffix.lower() in PICKLES]
        shutil.copytree(folder, aside / name, ignore=lambda _, names, p=tuple(pickles): {n for n in names if n in p})
