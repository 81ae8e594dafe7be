"""Weights into a run and out of it: what it begins with, and what it has trained so far."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from lcv_jax.checkpoint import hub, layout
from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.lora import load_lora
from lcv_jax.checkpoint.store import quiet
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.train.checkpoint import STATE

Tree = Any
WEIGHTS = ("ema", "trained")


def is_run(path: os.PathLike[str] | str) -> bool:
    """Whether `path` is one checkpoint of a training run."""
    return (pathlib.Path(path) / STATE).is_dir()


def read_model(path: str, config: zoo.ModelConfig, abstract: Tree) -> Tree:
    """A model's parameters from a checkpoint (or the model's folder, or a hub id), or from a checkpoint of a run.

    abstract: shapes, dtypes and shardings. Raises InputError where the architecture is another.
    """
    if is_run(path):
        return read_trained(path, abstract)
    component = next(one for one in layout.COMPONENTS.values() if isinstance(config, one.config))
    folder = hub.resolve(path)
    place = folder if layout.is_model(folder) else layout.folder(folder, component.name)
    model = layout.open_model(component, place)
    if _architecture(model.config) != _architecture(config):
        raise InputError(f"{place}: its architecture is not the recipe's: {model.config} there, {config} here")
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    dtype = jax.tree.leaves(abstract)[0].dtype
    return load_params(model.source, model.component.table, model.abstract, dtype=dtype, shardings=shardings)


def read_lora(path: str, config: DiTConfig, abstract: Tree) -> Tree:
    """Adapters that a run of these shapes begins with: from a LoRA file, or from a checkpoint of a run.

    abstract: shapes, dtypes and shardings by the one adapter's name. Raises InputError where rank or layers are others.
    """
    if is_run(path):
        return read_trained(path, abstract)
    ((name, wanted),) = abstract.items()

    def where(shapes: Tree) -> Tree:
        _compare(path, _shapes(shapes), _shapes(wanted), "it is a LoRA of another rank, or of other layers")
        return jax.tree.map(lambda leaf: leaf.sharding, wanted)

    model = zoo.abstract_params(config, FLOAT32)
    return {name: load_lora(path, model, dtype=FLOAT32.param, shardings=where)}


def _architecture(config: zoo.ModelConfig) -> zoo.ModelConfig:
    """Without what weights do not depend on: the statistics of latents, which training an autoencoder changes, and the
    blocks of block sparse attention."""
    if isinstance(config, DiTConfig):
        return dataclasses.replace(config, bsa_params=None)
    if not isinstance(config, VAEConfig):
        return config
    return dataclasses.replace(config, latents_mean=(0.0,) * config.z_dim, latents_std=(1.0,) * config.z_dim)


def read_trained(path: os.PathLike[str] | str, abstract: Tree, weights: str | None = None) -> Tree:
    """What a run trained, from one of its checkpoints, without its moments.

    abstract: shapes, dtypes and, for arrays on devices, shardings. weights: "ema" or "trained", None is the mean if
    there is one. Raises InputError if it is damaged, of another shape, or has no mean.
    """
    folder = pathlib.Path(path).absolute() / STATE
    checkpointer = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    have = _names(checkpointer, folder)
    weights = weights or ("ema" if "ema" in have else "trained")
    if weights not in have:
        raise InputError(f"{path}: has no {weights!r}, expected one of {', '.join(n for n in WEIGHTS if n in have)}")
    _compare(path, _shapes(have[weights]), _shapes(abstract), "it is of another model")
    item = {weights: abstract}
    restore = jax.tree.map(_restore_args, item)
    try:
        args = ocp.args.PyTreeRestore(item=item, restore_args=restore, partial_restore=True)
        with quiet():
            return checkpointer.restore(folder, args=args)[weights]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: damaged checkpoint ({' '.join(str(error).split())[:200]})") from error


def _compare(path: os.PathLike[str] | str, found: Mapping[str, Any], wanted: Mapping[str, Any], otherwise: str) -> None:
    """Raises InputError unless these are the shapes wanted, by name."""
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise InputError(f"{path}: {name} has shape {found.get(name)}, expected {wanted.get(name)}: {otherwise}")


def _names(checkpointer: ocp.Checkpointer, folder: pathlib.Path) -> Tree:
    """The saved tree of metadata, by the names of the state's parts; a part that is None is left out."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: expected a checkpoint of a run, such as RUN/checkpoints/1000")
    try:
        with quiet():
            tree = checkpointer.metadata(folder).item_metadata.tree
    except Exception as error:  # Orbax lets whatever a broken file causes through
        raise InputError(f"{folder}: damaged checkpoint ({' '.join(str(error).split())[:200]})") from error
    return {name: part for name, part in tree.items() if jax.tree.leaves(part)}


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in named}


def _restore_args(leaf: jax.ShapeDtypeStruct) -> ocp.RestoreArgs:
    if leaf.sharding is None:
        return ocp.RestoreArgs(restore_type=np.ndarray, dtype=leaf.dtype)
    return ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype, global_shape=leaf.shape)
