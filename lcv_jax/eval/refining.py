"""What refinement makes of clips of the toy world: whether they still show the same, and how sharp they are.

Clips are drawn at the refined size and made worse as in training (data/pair_sources.py), each by a composition of its
own. They go through the autoencoder, as a sampled clip has, and are refined with dense attention, with block sparse
attention, or upsampled alone.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from lcv_jax.data import images
from lcv_jax.data.degrade import Degrading
from lcv_jax.data.pair_sources import low_clip
from lcv_jax.data.pairs import MODES, Pairs
from lcv_jax.data.toy import Form, ToySource
from lcv_jax.data.upsample import upsampled
from lcv_jax.eval.judging import Verdict, tally, verdict
from lcv_jax.eval.sampling import Sampling
from lcv_jax.ops.attention import Attention
from lcv_jax.sample.pipeline import Pipeline

REFINEMENT = "refinement"


@dataclasses.dataclass(frozen=True)
class Way:
    """How clips are brought to the refined size. lora: file of the refinement LoRA, None is the checkpoint's own.
    sparse: see `Parts.network`. Without refinement, they are upsampled alone."""

    name: str
    refines: bool = True
    lora: str | None = None
    sparse: Attention | str | None = None


@dataclasses.dataclass(frozen=True)
class Refining:
    """How clips are refined. size: (H, W) refined. mode: of data.pairs.MODES. steps: of the whole schedule. seed: of
    degradations, and of the first clip's noise. loras: active besides that of refinement."""

    size: tuple[int, int]
    mode: str
    steps: int
    max_text_tokens: int
    seed: int = 0
    loras: tuple[str, ...] = ()

    def source(self, sampling: Sampling, count: int, objects: Sequence[int]) -> ToySource:
        """The clips as they shall be, of so many times the frames of a sample as the mode makes of one."""
        form = Form(self.size, sampling.frames * MODES[self.mode])
        return ToySource(count, sampling.seed, (form,), tuple(objects), "held_out")

    def low(self, pipe: Pipeline, record: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
        """What is refined, (F, *size, 3) uint8: degraded, and decoded."""
        frames = low_clip(record["video"], Pairs(self.mode, seed=self.seed), size, record["key"], Degrading())
        return pipe.frames(pipe.encode_video(images.to_model(frames)[None]))[0]

    def clip(self, pipe: Pipeline, way: Way, low: np.ndarray, prompt: str, number: int) -> np.ndarray:
        """The low clip at the refined size and rate, uint8. Its refinement LoRA must be loaded."""
        if not way.refines:
            count = len(low) * MODES[self.mode]
            return images.to_uint8(np.stack(list(upsampled(low, self.size, count, range(count)))))
        options = {"size": self.size, "steps": self.steps, "max_text_tokens": self.max_text_tokens, "loras": self.loras}
        spatial = self.mode == "spatial"
        return pipe.refine(low, prompt, spatial_only=spatial, sparse=way.sparse, seed=self.seed + number, **options)[0]


@dataclasses.dataclass(frozen=True)
class Refined:
    """Clips that one way made. clips, true: (N, F, H, W, 3) uint8, in order. verdicts: of the judge."""

    way: Way
    clips: Sequence[np.ndarray]
    true: Sequence[np.ndarray]
    verdicts: Sequence[Verdict]

    def told(self) -> dict[str, Any]:
        """`judging.tally`, and "sharpness": the mean over clips of their gradient energy over the true clip's; "psnr"
        of all bytes of all clips against the true ones, in dB."""
        pairs = list(zip(self.clips, self.true, strict=True))
        ratios = [gradient_energy(clip) / gradient_energy(true) for clip, true in pairs]
        error = np.mean([np.square(clip.astype(np.float32) - true).mean() for clip, true in pairs])
        psnr = 10 * math.log10(255**2 / error) if error else math.inf
        return tally(self.verdicts) | {"sharpness": float(np.mean(ratios)), "psnr": psnr}


def refined(
    pipe: Pipeline, refining: Refining, sampling: Sampling, ways: Sequence[Way], source: ToySource, language: str
) -> Iterator[Refined]:
    """All clips of the source, by one way after the other."""
    records = [source[number] for number in range(len(source))]
    low = [refining.low(pipe, record, sampling.size) for record in records]
    for way in ways:
        if way.refines:
            pipe.load_lora(way.lora or pipe.opened.lora_file(REFINEMENT), REFINEMENT)
        clips = [
            refining.clip(pipe, way, low[n], record[f"caption_{language}"], n)
            for n, record in enumerate(tqdm.tqdm(records, desc=f"refine {language}, {way.name}", disable=None))
        ]
        verdicts = [verdict("t2v", clip, record["facts"], 0) for clip, record in zip(clips, records, strict=True)]
        yield Refined(way, clips, [record["video"] for record in records], verdicts)


def gradient_energy(frames: np.ndarray) -> float:
    """Mean squared difference of the luminance of neighbours, down and to the right, of (F, H, W, 3) uint8."""
    grey = images.luminance(frames)
    return float(sum(np.square(np.diff(grey, axis=axis)).mean() for axis in (1, 2)))
