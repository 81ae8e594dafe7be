"""How pleasing a clip's pictures are: a head on CLIP's image embedding that learned it from people's ratings, 1 to 10.

It reads the published weights of LAION's predictors, which users download themselves; docs/curation/scorers.md tells
how. The only scorer that needs torch.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import PIL.Image

from lcv_jax.checkpoint.tensorfile import PICKLES, TensorFile
from lcv_jax.data.curation.scorers.base import Sample, Scoring, View, within
from lcv_jax.data.curation.scorers.views import spread
from lcv_jax.data.curation.scorers.weights import fingerprint
from lcv_jax.errors import InputError

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_STD = (0.26862954, 0.26130258, 0.27577711)
_WEIGHT = re.compile(r"(?:.*?(\d+)\.)?weight")


@dataclasses.dataclass(frozen=True)
class Aesthetic:
    """clip: folder of a CLIP model as transformers saves it, openai/clip-vit-large-patch14 for the published heads.
    head: safetensors of linear layers, from the embedding to one number. frames: of a clip, whose mean it is."""

    fields: ClassVar[tuple[str, ...]] = ("aesthetic",)
    needs: ClassVar[tuple[View, ...]] = ()

    clip: str
    head: str
    frames: int = 3

    def __post_init__(self):
        within("aesthetic, frames", self.frames, 1)

    def decides(self) -> Mapping[str, Any]:
        self._check_files()
        seen = ("config.json", "preprocessor_config.json", "model.safetensors")
        model = [path for name in seen if (path := pathlib.Path(self.clip, name)).is_file()]
        return {"clip": fingerprint(*model), "head": fingerprint(self.head), "frames": self.frames}

    def check(self) -> None:
        _packages()
        self._check_files()
        read_head(self.head)

    def open(self) -> Scoring:
        embed, head = open_clip(self.clip), read_head(self.head)

        def score(clips: Sequence[Sample]) -> list[dict[str, Any]]:
            chosen = [clip.stills[list(spread(self.frames, len(clip.stills)))] for clip in clips]
            rated = head(embed([still for stills in chosen for still in stills]))
            parts = np.split(rated, np.cumsum([len(stills) for stills in chosen])[:-1])
            return [{"aesthetic": float(part.mean())} for part in parts]

        return score

    def _check_files(self) -> None:
        for name in ("config.json", "model.safetensors"):
            if not pathlib.Path(self.clip, name).is_file():
                raise InputError(
                    f"aesthetic, clip {self.clip}: has no {name}, expected the folder of a CLIP model such as "
                    "openai/clip-vit-large-patch14; docs/curation/scorers.md tells how to get it"
                )
        if pathlib.Path(self.head).suffix in PICKLES:
            raise InputError(f"aesthetic, head {self.head}: is a pickle, which can run code; {_CONVERT}")
        if not pathlib.Path(self.head).is_file():
            raise InputError(f"aesthetic, head {self.head}: no such file; {_CONVERT}")


def read_head(path: str) -> Callable[[np.ndarray], np.ndarray]:
    """Of a file of linear layers what they make of unit vectors (N, D): (N,) float32.

    The published predictors have one layer ("weight", "bias") or five ("layers.0.weight", ...) and nothing but dropout
    in between, so that they are one linear map. Raises InputError on other files.
    """
    file = TensorFile.open(path)
    names = {name: _WEIGHT.fullmatch(name) for name in file.tensors}
    layers = sorted((int(match[1] or 0), name) for name, match in names.items() if match)
    biases = {name.removesuffix("weight") + "bias" for _, name in layers}
    if not layers or biases | {name for _, name in layers} != set(file.tensors):
        raise InputError(f"aesthetic, head {path}: holds {sorted(file.tensors)}, expected weights and biases of layers")
    weight, bias = None, np.zeros(1)
    for _, name in layers:
        step = file.read(name, np.dtype(np.float32)).astype(np.float64)
        more = file.read(name.removesuffix("weight") + "bias", np.dtype(np.float32)).astype(np.float64)
        if step.ndim != 2 or more.shape != step.shape[:1] or (weight is not None and step.shape[1] != len(weight)):
            raise InputError(f"aesthetic, head {path}: {name} {step.shape} does not follow on the layer before it")
        weight, bias = (step, more) if weight is None else (step @ weight, step @ bias + more)
    if len(weight) != 1:
        raise InputError(f"aesthetic, head {path}: ends in {len(weight)} numbers, expected one")

    def head(embeddings: np.ndarray) -> np.ndarray:
        if embeddings.shape[1] != weight.shape[1]:
            raise InputError(
                f"aesthetic, head {path}: is for embeddings of {weight.shape[1]} numbers, and CLIP's have "
                f"{embeddings.shape[1]}; the published heads are for clip-vit-large-patch14"
            )
        return (embeddings.astype(np.float64) @ weight[0] + bias[0]).astype(np.float32)

    return head


def open_clip(folder: str) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """Of pictures (H, W, 3) uint8 of any sizes CLIP's embeddings as unit vectors, (N, D) float32."""
    torch, transformers = _packages()
    TensorFile.open(pathlib.Path(folder, "model.safetensors"))  # finds damage, in one line
    try:
        model, about = transformers.CLIPModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"aesthetic, clip {folder}: cannot be loaded ({' '.join(str(error).split())})") from error
    if missing := sorted(map(str, (*about["missing_keys"], *about["mismatched_keys"]))):  # transformers draws these
        raise InputError(f"aesthetic, clip {folder}: cannot be loaded ({missing[0]} does not fit or is missing)")
    # Not get_image_features, whose result changed from one version of transformers to the next.
    tower, projection = model.vision_model.eval(), model.visual_projection.eval()
    prepare = Preparation.read(folder)

    def embed(pictures: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([prepare(picture) for picture in pictures]))
        with torch.inference_mode():
            found = projection(tower(pixel_values=pixels).pooler_output)
        return (found / found.norm(dim=-1, keepdim=True)).numpy()

    return embed


@dataclasses.dataclass(frozen=True)
class Preparation:
    """Of a picture what CLIP sees: the middle square, `side` pixels, by bicubic scaling, normalised."""

    side: int = 224
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    @classmethod
    def read(cls, folder: str) -> "Preparation":
        """As config.json and, if there is one, preprocessor_config.json say."""
        place = pathlib.Path(folder)
        side = json.loads((place / "config.json").read_text("utf-8")).get("vision_config", {}).get("image_size", 224)
        told = place / "preprocessor_config.json"
        about = json.loads(told.read_text("utf-8")) if told.is_file() else {}
        return cls(side, tuple(about.get("image_mean", _MEAN)), tuple(about.get("image_std", _STD)))

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """(3, side, side) float32 of (H, W, 3) uint8."""
        height, width = picture.shape[:2]
        least = min(height, width)
        size = int(self.side * width / least), int(self.side * height / least)
        scaled = np.asarray(PIL.Image.fromarray(picture).resize(size, PIL.Image.Resampling.BICUBIC))
        left, top = (size[0] - self.side) // 2, (size[1] - self.side) // 2
        square = scaled[top : top + self.side, left : left + self.side].astype(np.float32) / 255
        return ((square - np.float32(self.mean)) / np.float32(self.std)).transpose(2, 0, 1)


_CONVERT = "expected safetensors; docs/curation/scorers.md tells where to get a head and how to convert it"


def _packages() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"the aesthetic scorer needs torch and transformers ({error}); install them: pip install 'lcv_jax[rewards]'"
        ) from error
    return torch, transformers
