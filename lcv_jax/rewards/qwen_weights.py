"""The published weights of reward models: Qwen2-VL with a head, whole or as a LoRA, under any of the names they have.

Older files call the language model "model." and the vision tower "visual."; newer ones put both under "model."; those
that were saved while a LoRA was attached begin with "base_model.model." and have "base_layer" and "lora_A" in them.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.tensorfile import PICKLES, TensorFile
from lcv_jax.errors import InputError

EMBEDDING = "language_model.embed_tokens.weight"
HEAD = "rm_head."
_UNUSED = "lm_head."  # predicts words
_LORA = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")

Files = SafetensorsSource | TensorFile


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file, by its name there."""

    file: Files
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.file.tensors[self.name].shape

    @property
    def where(self) -> str:
        return f"{self.file.path}: key {self.name!r}"

    def read(self) -> np.ndarray:
        """Its values, float32."""
        return self.file.read(self.name, np.dtype(np.float32))


@dataclasses.dataclass(frozen=True)
class Weights:
    """backbone: of the Qwen2VLModel, by its names. head: by what follows "rm_head.". loras: name of a weight -> the
    factors "A" (r, in) and "B" (out, r) of what is added to it, times `scale`.
    """

    backbone: Mapping[str, Stored]
    head: Mapping[str, Stored]
    loras: Mapping[str, Mapping[str, Stored]]
    scale: float

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding, of which a model may have fewer than the language model that it was made from."""
        return self.backbone[EMBEDDING].shape[0]

    def read(self, name: str) -> np.ndarray:
        """A weight of the backbone, what is added to it included, float32."""
        weight = self.backbone[name].read()
        if name in self.loras:
            factors = self.loras[name]
            weight += np.float32(self.scale) * (factors["B"].read() @ factors["A"].read())
        return weight

    def read_head(self, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, np.ndarray]:
        """The head's tensors, float32. shapes: those it has to have, None for any length. Raises InputError."""
        for name in (*shapes, *self.head):
            if name not in self.head:
                raise InputError(f"{self.backbone[EMBEDDING].file.path}: key {HEAD + name!r} is missing; {_AGAIN}")
            if name not in shapes:
                raise InputError(f"{self.head[name].where}: not known; {_AGAIN}")
            found, wanted = self.head[name].shape, shapes[name]
            if len(found) != len(wanted) or any(n not in (None, m) for m, n in zip(found, wanted, strict=True)):
                raise InputError(f"{self.head[name].where}: shape {found}, expected {wanted}; {_AGAIN}")
        return {name: self.head[name].read() for name in shapes}


_AGAIN = "check that the file belongs to this reward, or download it again"


def collect(files: Iterable[Files], scale: float = 1.0) -> Weights:
    """The weights in `files`, of which later ones replace what earlier ones have. Raises InputError on names that are
    not understood, half a LoRA, and where there is no embedding.
    """
    backbone, head, loras = {}, {}, {}
    for file in files:
        for name in file.tensors:
            stored, plain = Stored(file, name), name.removeprefix("base_model.model.")
            if factor := _LORA.fullmatch(plain):
                loras.setdefault(f"{_ours(factor[1], stored)}.weight", {})[factor[2]] = stored
            elif plain.startswith(HEAD):
                head[plain.removeprefix(HEAD)] = stored
            elif not plain.startswith(_UNUSED):
                backbone[_ours(plain.replace(".base_layer.", "."), stored)] = stored
    for name, factors in loras.items():
        if len(factors) < 2:
            (stored,) = factors.values()
            raise InputError(f"{stored.where}: its other factor, lora_A or lora_B, is missing; {_AGAIN}")
        if name not in backbone:
            raise InputError(f"{factors['A'].where}: there is no weight {name!r} to add it to; {_AGAIN}")
    if EMBEDDING not in backbone:
        raise InputError(f"{', '.join(str(file.path) for file in files)}: no {EMBEDDING!r}; {_AGAIN}")
    return Weights(backbone, head, loras, scale)


def check_fits(model: Any, weights: Weights) -> None:
    """Raises InputError unless names and shapes are those of a torch Qwen2VLModel, which may have no memory yet; the
    embedding may have more rows than the model's.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name not in weights.backbone:
            raise InputError(f"{weights.backbone[EMBEDDING].file.path}: no tensor for {name!r}; {_AGAIN}")
        stored, wanted = weights.backbone[name], tuple(parameter.shape)
        found = (min(stored.shape[0], wanted[0]), *stored.shape[1:]) if name == EMBEDDING else stored.shape
        if found != wanted:
            raise InputError(f"{stored.where}: shape {stored.shape}, expected {wanted}; {_AGAIN}")
        if name in weights.loras:
            down, up = (weights.loras[name][factor] for factor in "AB")
            rank = down.shape[0] if down.shape else 0
            if (up.shape, down.shape) != ((*wanted[:1], rank), (rank, *wanted[1:])):
                raise InputError(f"{down.where}: {down.shape} and {up.shape} do not fit a weight of {wanted}; {_AGAIN}")
    if unknown := sorted(weights.backbone.keys() - parameters.keys()):
        raise InputError(f"{weights.backbone[unknown[0]].where}: not known; {_AGAIN}")


def fill(model: Any, weights: Weights) -> None:
    """Copies weights that fit into a torch Qwen2VLModel, one at a time; rows of the embedding beyond its own are left
    out.
    """
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(weights.read(name)[: parameter.shape[0]]))


def the_file(folder: pathlib.Path, name: str) -> TensorFile:
    """folder/NAME.safetensors. Raises InputError where it is missing, with the way to it where there is a pickle of
    that name instead: they can run code and are never read.
    """
    path = folder / f"{name}.safetensors"
    if not path.is_file():
        for pickle in (folder / f"{name}{suffix}" for suffix in PICKLES):
            if pickle.is_file():
                raise InputError(
                    f"{pickle}: pickle files can run code and are never read; where you trust it, make {path.name} of "
                    "it as docs/rewards.md says"
                )
    return TensorFile.open(path)


def _ours(name: str, stored: Stored) -> str:
    for published, ours in (
        ("model.language_model.", "language_model."),
        ("model.visual.", "visual."),
        ("visual.", "visual."),
        ("model.", "language_model."),
    ):
        if name.startswith(published):
            return ours + name.removeprefix(published)
    raise InputError(f"{stored.where}: not known; {_AGAIN}")
