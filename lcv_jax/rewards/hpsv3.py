"""HPSv3 on videos: how people would like the frames, in general and under the caption.

Published as MizzenAI/HPSv3: Qwen2-VL-7B with a head of three layers that gives mean and spread of a preference; the
first is the score. The two rewards are those of LongCat-Video's report: the mean over all frames under a prompt that
asks for quality only, and the mean of the best frames under the caption.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from lcv_jax.rewards.protocol import ALL_FRAMES, Device, FramePick
from lcv_jax.rewards.qwen import Reader, check_prompts, open_reader, published_template, see
from lcv_jax.rewards.qwen_weights import collect, the_file

BASE = "Qwen2-VL-7B-Instruct"
WEIGHTS = "HPSv3"
SOURCE = "data_collator_qwen.py"
"""What a folder has to hold: the base's folder, HPSv3.safetensors, and the authors' file with the instructions."""
GENERAL, PERCENTILE = "hpsv3-general", "hpsv3-percentile"
NAMES = (GENERAL, PERCENTILE)

_PROMPT = "A high-quality image"
_BEST = 0.3  # share of the frames
_PIXELS = 256 * 28 * 28  # of a picture
_AT_ONCE = 8  # pictures
_MARK = "<|Reward|>"
_HEAD = {"0": 1024, "3": 16, "5": 2}  # its linear layers and their outputs; between them ReLU and dropout


@dataclasses.dataclass(frozen=True)
class HPSv3:
    """The model. template: the text about a picture, with a place for the prompt. head: weights and biases, float32."""

    reader: Reader
    template: str
    head: Mapping[str, np.ndarray]

    def score(self, pictures: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        """(N,) float32 of N pictures (H, W, 3) uint8 under N prompts."""
        states = []
        for first in range(0, len(pictures), _AT_ONCE):  # patches of all pictures would be gigabytes
            some = slice(first, first + _AT_ONCE)
            seen = [see(picture[None], _PIXELS, _PIXELS) for picture in pictures[some]]
            texts = [self.template.replace("{text_prompt}", prompt) for prompt in prompts[some]]
            states.append(self.reader.states(seen, texts, _AT_ONCE)[:, 0])
        state = np.concatenate(states)
        for i, layer in enumerate(_HEAD):
            state = np.maximum(state, 0) if i else state
            state = state @ self.head[f"{layer}.weight"].T + self.head[f"{layer}.bias"]
        return state[:, 0]


@dataclasses.dataclass(frozen=True)
class HPSv3Reward:
    """One of the two rewards."""

    name: str
    model: HPSv3
    picks: FramePick = ALL_FRAMES

    def check(self, prompts: Sequence[str]) -> None:
        check_prompts(prompts)

    def __call__(self, frames: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        check_prompts(prompts)
        pictures = [frame for video in frames for frame in video]
        general = self.name == GENERAL
        asked = [_PROMPT if general else prompt for video, prompt in zip(frames, prompts, strict=True) for _ in video]
        scores = np.split(self.model.score(pictures, asked), np.cumsum([len(video) for video in frames])[:-1])
        return np.array([each.mean() if general else best_mean(each) for each in scores], np.float32)


def best_mean(scores: np.ndarray) -> float:
    """The mean of the largest 30 % of (F,) scores, at least one."""
    count = math.ceil(_BEST * len(scores))
    return float(np.sort(scores)[-count:].mean())


def load(path: str, device: Device) -> tuple[HPSv3Reward, ...]:
    """Both rewards of one model, from its folder. Raises InputError where something is missing or does not fit."""
    folder = pathlib.Path(path)
    template = published_template(folder / SOURCE, ("INSTRUCTION", "prompt_with_special_token"), (_MARK,))
    weights = collect([the_file(folder, WEIGHTS)])
    reader = open_reader(folder / BASE, weights, [_MARK], "image", device)
    shapes, inputs = {}, reader.width
    for layer, outputs in _HEAD.items():
        shapes |= {f"{layer}.weight": (outputs, inputs), f"{layer}.bias": (outputs,)}
        inputs = outputs
    model = HPSv3(reader, template, weights.read_head(shapes))
    return tuple(HPSv3Reward(name, model) for name in NAMES)
