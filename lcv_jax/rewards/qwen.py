"""Qwen2-VL as a reader of pictures and videos: what it has in mind at marked places of a text about them.

The published reward models hand embeddings to the language model, so they never had the three-dimensional positions
that Qwen2-VL has elsewhere: tokens of pictures and text are counted through alike. Here the positions are given
explicitly, because transformers would work out the others. Needs torch, which is imported where it is used.
"""

import ast
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import PIL.Image

from lcv_jax.checkpoint.source import read_json
from lcv_jax.errors import InputError
from lcv_jax.published import expect
from lcv_jax.rewards.protocol import Device
from lcv_jax.rewards.qwen_weights import Weights, check_fits, fill

PATCH, MERGE, TIME = 14, 2, 2
"""Pixels of a patch's side; patches of a token's side; frames of a patch."""
_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
_THINNEST = 200  # how many times longer than the other one side may be

Kind = Literal["image", "video"]


@dataclasses.dataclass(frozen=True)
class Seen:
    """A picture or video as the model reads it. patches: (t h w, 3 * 2 * 14 * 14) float32, blocks of 2 x 2 patches one
    behind the other. grid: (t, h, w) in patches.
    """

    patches: np.ndarray
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        return math.prod(self.grid) // MERGE**2


def see(frames: np.ndarray, least: int, most: int) -> Seen:
    """Frames (F, H, W, 3) uint8, scaled to between `least` and `most` pixels each and to whole tokens.

    The last frame is repeated where their number is odd. Raises InputError for a side more than 200 times the other.
    """
    height, width = target_size(*frames.shape[1:3], least, most)
    if len(frames) % TIME:
        frames = np.concatenate([frames, frames[-1:]])
    scaled = np.empty((len(frames), height, width, 3), np.float32)
    for frame, out in zip(frames, scaled, strict=True):
        out[:] = PIL.Image.fromarray(frame).resize((width, height), PIL.Image.Resampling.BICUBIC)
    scaled = (scaled / np.float32(255) - _MEAN) / _STD
    grid = (len(frames) // TIME, height // PATCH, width // PATCH)
    side = (grid[1] // MERGE, MERGE, PATCH, grid[2] // MERGE, MERGE, PATCH)
    cut = scaled.reshape(grid[0], TIME, *side, 3)  # t, time, rows, merge, y, columns, merge, x, colour
    return Seen(cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(math.prod(grid), -1), grid)


def target_size(height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """The size that a frame is scaled to: the nearest whole tokens, unless that is beyond `most` pixels, where it is
    the largest within, or under `least`, where it is the smallest above, of about the same shape.
    """
    if max(height, width) > _THINNEST * min(height, width):
        raise InputError(f"frames: {height} x {width} pixels, expected no side more than {_THINNEST} times the other")
    step = PATCH * MERGE
    sides = [max(step, round(side / step) * step) for side in (height, width)]
    if math.prod(sides) > most:
        shrink = math.sqrt(height * width / most)
        sides = [max(step, math.floor(side / shrink / step) * step) for side in (height, width)]
    elif math.prod(sides) < least:
        grow = math.sqrt(least / (height * width))
        sides = [math.ceil(side * grow / step) * step for side in (height, width)]
    return sides[0], sides[1]


@dataclasses.dataclass(frozen=True)
class Reader:
    """The model, its tokenizer, and the marks in texts at which its states are asked for, in their order there."""

    model: Any
    tokenizer: Any
    marks: Mapping[str, int]
    kind: Kind

    @property
    def width(self) -> int:
        """Of a state."""
        return self.model.config.text_config.hidden_size

    def states(self, seen: Sequence[Seen], texts: Sequence[str], at_once: int) -> np.ndarray:
        """(N, marks, width) float32 of N pictures or videos with a text each that has every mark once."""
        parts = [self._states(seen[i : i + at_once], texts[i : i + at_once]) for i in range(0, len(seen), at_once)]
        return np.concatenate(parts)

    def _states(self, seen: Sequence[Seen], texts: Sequence[str]) -> np.ndarray:
        import torch

        ids, mask = self._tokens(seen, texts)
        device, names = self.model.device, _NAMES[self.kind]
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
            "position_ids": torch.arange(ids.shape[1]).expand(3, *ids.shape),
            names["pixels"]: torch.from_numpy(np.concatenate([each.patches for each in seen])),
            names["grid"]: torch.tensor([each.grid for each in seen]),
        }
        with torch.inference_mode():
            found = self.model(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False)
        hidden = found.last_hidden_state.float().cpu().numpy()
        places = np.stack([np.argmax(ids == mark, axis=1) for mark in self.marks.values()], axis=1)
        return np.take_along_axis(hidden, places[..., None], axis=1)

    def _tokens(self, seen: Sequence[Seen], texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask (N, L) int64, padded behind their ends."""
        rows = [
            self.tokenizer(_dialogue(self.kind, each.tokens, text), add_special_tokens=False)["input_ids"]
            for each, text in zip(seen, texts, strict=True)
        ]
        ids = np.full((len(rows), max(map(len, rows))), self.tokenizer.pad_token_id, np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return ids, mask


_NAMES = {
    "image": {"pixels": "pixel_values", "grid": "image_grid_thw"},
    "video": {"pixels": "pixel_values_videos", "grid": "video_grid_thw"},
}


def check_prompts(prompts: Sequence[str]) -> None:
    """Raises InputError for prompts with "<|" in them, where a mark of the model could stand."""
    for prompt in prompts:
        if "<|" in prompt:
            raise InputError(
                f"prompt {prompt!r}: has '<|' in it, which begins a mark of the reward model; leave it out"
            )


def open_reader(folder: pathlib.Path, weights: Weights, marks: Sequence[str], kind: Kind, device: Device) -> Reader:
    """The model that the weights are of, in bfloat16 on a GPU, float32 on a CPU.

    folder: of the published Qwen2-VL-...-Instruct: its config.json and tokenizer. marks: tokens that are added to the
    vocabulary, in this order. Raises InputError where something is missing or does not fit, and without torch.
    """
    torch, transformers = _libraries(device)
    path = folder / "config.json"
    published = read_json(path)
    expect(
        published.get("model_type") == "qwen2_vl", str(path), "model_type", published.get("model_type"), "'qwen2_vl'"
    )
    try:
        config = transformers.Qwen2VLConfig.from_pretrained(str(folder), local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # what it raises on missing and broken files differs from version to version
        line = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder}: cannot be read ({line}); expected config.json and the tokenizer of Qwen2-VL"
        ) from error
    tokenizer.add_tokens(list(marks), special_tokens=True)
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in marks}
    pad, end = config.image_token_id if kind == "image" else config.video_token_id, max(ids.values()) + 1
    if tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") != pad or tokenizer.pad_token_id is None:
        raise InputError(f"{folder}: tokenizer and config.json do not fit together; download both again")
    if weights.vocabulary < end:
        raise InputError(f"{folder}: {end} tokens, but the weights have {weights.vocabulary}; download both again")
    config.text_config.vocab_size = min(weights.vocabulary, max(end, len(tokenizer)))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device("meta"):  # shapes without memory
        check_fits(transformers.AutoModel.from_config(config), weights)
    with torch.device(device):
        model = transformers.AutoModel.from_config(config, dtype=dtype)
    fill(model, weights)
    # The rotary frequencies too are rounded to bfloat16, as where the models were trained.
    return Reader(model.to(dtype).eval(), tokenizer, ids, kind)


def published_template(path: pathlib.Path, names: Sequence[str], marks: Sequence[str]) -> str:
    """The strings that a published Python file gives `names`, joined, found without running the file.

    Raises InputError where one is missing, and unless "{text_prompt}" and every mark stand in the whole once.
    """
    try:
        tree = ast.parse(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file: the reward needs the instructions that it was trained with, which this file of its "
            "authors holds; docs/rewards.md says where it is"
        ) from None
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as Python ({error}); download it again") from None
    text = ""
    for name in names:
        strings = list(_strings(tree, name))
        if not strings:
            raise InputError(f"{path}: has no string {name}; expected the file of the reward's authors")
        text += strings[-1]
    for part in ("{text_prompt}", *marks):
        if text.count(part) != 1:
            raise InputError(f"{path}: {part} {text.count(part)} times in {' and '.join(names)}, expected it once")
    return text


def _strings(tree: ast.Module, name: str) -> Iterator[str]:
    for node in tree.body:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Constant):
            continue
        if any(isinstance(to, ast.Name) and to.id == name for to in node.targets) and isinstance(node.value.value, str):
            yield node.value.value


def _dialogue(kind: Kind, tokens: int, text: str) -> str:
    """What Qwen2-VL-Instruct reads when it is asked `text` about a picture or video of so many tokens."""
    shown = f"<|vision_start|>{f'<|{kind}_pad|>' * tokens}<|vision_end|>"
    turns = (("system", "You are a helpful assistant."), ("user", shown + text))
    return "".join(f"<|im_start|>{who}\n{what}<|im_end|>\n" for who, what in turns) + "<|im_start|>assistant\n"


def _libraries(device: Device) -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(f"this reward needs torch ({error}); install it: pip install 'lcv_jax[rewards]'") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: torch finds none here; choose cpu, or a server on a machine that has one")
    return torch, transformers
