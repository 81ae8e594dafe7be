"""Samples of the toy world's held-out prompts, many at a time; each has its own condition and its own seed."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tqdm

from lcv_jax.data import images
from lcv_jax.data.toy import Form, ToySource
from lcv_jax.sample.options import Options
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.request import Request, continuation, image_to_video, text_to_video, together

Judged = Literal["t2v", "i2v", "vc"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How samples are made. size: (H, W). frames: of a sample, 1 makes pictures. cond_frames: of them given to vc.
    seed: of the world and of the first sample. batch: samples at once. enhance_hf: see `Pipeline.continue_video`.
    distilled: see `Options`.
    """

    size: tuple[int, int]
    frames: int
    cond_frames: int
    steps: int
    guidance: float
    max_text_tokens: int
    loras: tuple[str, ...] = ()
    seed: int = 0
    batch: int = 8
    enhance_hf: bool | None = None
    distilled: bool = False

    def source(self, count: int, objects: Sequence[int], frames: int | None = None) -> ToySource:
        """`count` held-out records; record i is the same whatever the count."""
        form = Form(self.size, self.frames if frames is None else frames)
        return ToySource(count, self.seed, (form,), tuple(objects), "held_out")

    def options(self, seed: int) -> dict[str, Any]:
        """What a task of the pipeline takes."""
        return {
            "size": self.size,
            "num_frames": self.frames,
            "steps": self.steps,
            "guidance": self.guidance,
            "distilled": self.distilled,
            "max_text_tokens": self.max_text_tokens,
            "loras": self.loras,
            "seed": seed,
        }

    def request(self, task: Judged, record: Mapping[str, Any], language: str, seed: int) -> Request:
        """What to ask the pipeline for, for a record of the world: its first frames are the condition."""
        prompt, shown = record[f"caption_{language}"], record["video"]
        options = Options(**self.options(seed), output="latents")
        if task == "t2v":
            return text_to_video(prompt, options)
        if task == "i2v":
            return image_to_video(shown[0], prompt, options)
        how = {"num_cond_frames": self.cond_frames, "kv_cache": True, "enhance_hf": self.enhance_hf}
        return continuation(shown[: self.cond_frames], prompt, options, **how)

    def clips(
        self, pipe: Pipeline, source: ToySource, task: Judged, language: str
    ) -> Iterator[tuple[Mapping[str, Any], np.ndarray]]:
        """The records with a sample (F, H, W, 3) uint8 of each. Sample i has seed + i, whatever the batch."""
        for numbers in tqdm.tqdm(batches(len(source), self.batch), desc=f"{task} {language}", disable=None):
            records = [source[number] for number in numbers]
            requests = [self.request(task, r, language, self.seed + n) for r, n in zip(records, numbers, strict=True)]
            # The last batch is filled up, so that nothing is compiled for it alone.
            requests += requests[-1:] * (min(self.batch, len(source)) - len(requests))
            video = images.to_uint8(pipe.decode_video(pipe.run(together(requests))))
            yield from zip(records, video[: len(records)], strict=True)


def batches(count: int, size: int) -> list[range]:
    """The numbers from 0 to count, `size` at a time."""
    return [range(at, min(at + size, count)) for at in range(0, count, size)]
