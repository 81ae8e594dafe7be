"""VideoAlign (VideoReward) on videos: quality of the motion, and how well the caption is shown.

Published as KwaiVGI/VideoReward: Qwen2-VL-2B with a LoRA, and a linear head over three marks in a long instruction, one
for each of visual quality, motion quality and text alignment. As in LongCat-Video's report motion is judged on the
video in grey and alignment in colour.
"""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lcv_jax.checkpoint.source import SafetensorsSource, read_json
from lcv_jax.data.images import luminance
from lcv_jax.errors import InputError
from lcv_jax.published import expect, is_number, positive
from lcv_jax.rewards.protocol import Device, FramePick
from lcv_jax.rewards.qwen import Reader, check_prompts, open_reader, published_template, see
from lcv_jax.rewards.qwen_weights import Files, collect, the_file

BASE = "Qwen2-VL-2B-Instruct"
CONFIG = "model_config.json"
SOURCE = "prompt_template.py"
"""What a folder has to hold: the base's folder, the published checkpoint, the authors' file with the instruction."""
MOTION, TEXT = "videoalign-motion", "videoalign-text"
NAMES = (MOTION, TEXT)

_ASPECTS = ("VQ", "MQ", "TA")
_LEAST_PIXELS = 128 * 28 * 28  # of a frame
_LEAST_FRAMES, _MOST_FRAMES = 4, 768


@dataclasses.dataclass(frozen=True)
class Settings:
    """What model_config.json says. fps: frames a second that are looked at. max_frame_pixels: of each. output_dim: of
    the head. lora_scale: of the LoRA. mean, std: of the scores, by aspect.
    """

    fps: float
    max_frame_pixels: int
    output_dim: int
    lora_scale: float
    mean: Mapping[str, float]
    std: Mapping[str, float]

    @classmethod
    def read(cls, path: pathlib.Path) -> "Settings":
        """Of a published file. Raises InputError on what is missing, and on other ways to read videos than these."""
        config, where = read_json(path), str(path)
        data, model, lora = (
            _object(config, name, where) for name in ("data_config", "model_config", "peft_lora_config")
        )
        for section, name, value in (
            (data, "prompt_template_type", "detailed_special"),
            (data, "sample_type", "uniform"),
            (data, "num_frames", None),
            (model, "reward_token", "special"),
            (model, "use_special_tokens", True),
        ):
            expect(section.get(name) == value, where, name, section.get(name), f"{value!r}, the only value supported")
        for section, name, kind in (
            (data, "fps", float),
            (data, "max_frame_pixels", int),
            (lora, "lora_r", int),
            (lora, "lora_alpha", float),
        ):
            positive(where, name, section.get(name), kind)
        outputs = model.get("output_dim")
        expect(outputs in (1, 3), where, "output_dim", outputs, "1 or 3")
        rank = math.sqrt(lora["lora_r"]) if lora.get("use_rslora") else lora["lora_r"]
        norm = config.get("inference_config") or {f"{a}_{k}": v for a in _ASPECTS for k, v in (("mean", 0), ("std", 1))}
        for name in (f"{aspect}_{kind}" for aspect in _ASPECTS for kind in ("mean", "std")):
            good = is_number(norm.get(name), float) and (not name.endswith("std") or norm[name] > 0)
            expect(good, where, name, norm.get(name), "a number, a standard deviation above 0")
        mean, std = ({aspect: float(norm[f"{aspect}_{kind}"]) for aspect in _ASPECTS} for kind in ("mean", "std"))
        return cls(data["fps"], data["max_frame_pixels"], outputs, lora["lora_alpha"] / rank, mean, std)

    @property
    def picks(self) -> FramePick:
        return FramePick(rate=float(self.fps), multiple=2, least=_LEAST_FRAMES, most=_MOST_FRAMES)


@dataclasses.dataclass(frozen=True)
class VideoAlign:
    """The model. template: the text about a video, with a place for the prompt. head: (output_dim, width) float32."""

    reader: Reader
    settings: Settings
    template: str
    head: np.ndarray

    def score(self, videos: Sequence[np.ndarray], prompts: Sequence[str], aspect: str) -> np.ndarray:
        """(N,) float32 of N videos (F, H, W, 3) uint8 under N prompts, normalised as published."""
        settings, k = self.settings, _ASPECTS.index(aspect)
        texts = [self.template.replace("{text_prompt}", prompt) for prompt in prompts]
        scores = []
        for video, text in zip(videos, texts, strict=True):  # one at a time, as it has thousands of tokens
            seen = see(video, _LEAST_PIXELS, settings.max_frame_pixels)
            state = self.reader.states([seen], [text], 1)[0, k]
            scores.append(self.head[min(k, settings.output_dim - 1)] @ state)
        return (np.array(scores, np.float32) - np.float32(settings.mean[aspect])) / np.float32(settings.std[aspect])


@dataclasses.dataclass(frozen=True)
class VideoAlignReward:
    """One of the two rewards."""

    name: str
    model: VideoAlign

    @property
    def picks(self) -> FramePick:
        return self.model.settings.picks

    def check(self, prompts: Sequence[str]) -> None:
        check_prompts(prompts)

    def __call__(self, frames: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        check_prompts(prompts)
        if self.name == MOTION:
            return self.model.score([grey(video) for video in frames], prompts, "MQ")
        return self.model.score(frames, prompts, "TA")


def grey(video: np.ndarray) -> np.ndarray:
    """(F, H, W, 3) uint8 without colour: the luma of each pixel three times."""
    return np.repeat(np.round(luminance(video)).astype(np.uint8)[..., None], 3, axis=-1)


def load(path: str, device: Device) -> tuple[VideoAlignReward, ...]:
    """Both rewards of one model, from its folder. Raises InputError where something is missing or does not fit."""
    folder = pathlib.Path(path)
    settings = Settings.read(folder / CONFIG)
    marks = [f"<|{aspect}_reward|>" for aspect in _ASPECTS]
    template = published_template(folder / SOURCE, ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN",), marks)
    weights = collect(_files(folder), settings.lora_scale)
    reader = open_reader(folder / BASE, weights, marks, "video", device)
    head = weights.read_head({"weight": (settings.output_dim, reader.width)})["weight"]
    model = VideoAlign(reader, settings, template, head)
    return tuple(VideoAlignReward(name, model) for name in NAMES)


def _files(folder: pathlib.Path) -> list[Files]:
    """Of the newest checkpoint-STEP, or of the folder itself: one file, or the base and what was trained on top."""
    steps = [each for each in folder.glob("checkpoint-*") if each.name.partition("-")[2].isdecimal()]
    newest = max(steps, key=lambda each: int(each.name.partition("-")[2]), default=folder)
    if (newest / "adapter_model.safetensors").is_file():
        parts = [the_file(newest, name) for name in ("non_lora_state_dict", "adapter_model")]
        return [SafetensorsSource(folder / BASE), *parts]
    return [the_file(newest, "model")]


def _object(config: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    if not isinstance(config.get(name), Mapping):
        raise InputError(f"{where}: field {name!r} is missing: take the file from the published checkpoint")
    return config[name]
