"""Long videos: whether the colours of their objects stay those asked for, segment by segment."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from lcv_jax.data.toy import ToySource, colour_error, score
from lcv_jax.eval.sampling import Sampling
from lcv_jax.eval.shares import share
from lcv_jax.sample.pipeline import Pipeline

STAYING = ("still", "turns")
"""Motions that can go on for ever; all others leave the picture, or fill it."""
_LOOKED_AT = 100_000


@dataclasses.dataclass(frozen=True)
class Film:
    """A long video. caption: in English. errors: of colour, one for each segment, in levels. kept: whether the last
    segment shows objects of the colours, shapes and number asked for. shown: the last frame of each segment, (N, H, W,
    3) uint8."""

    caption: str
    errors: tuple[float, ...]
    kept: bool
    shown: np.ndarray


def films(
    pipe: Pipeline, sampling: Sampling, count: int, segments: int, objects: Sequence[int], language: str
) -> Iterator[Film]:
    """Makes `count` long videos of held-out prompts whose objects stay in place, film i from seed + i N."""
    source = sampling.source(_LOOKED_AT, objects)
    for i, number in enumerate(tqdm.tqdm(_staying(source, count), desc=f"long {language}", disable=None)):
        record = source[number]
        facts, prompt = record["facts"], record[f"caption_{language}"]
        how = {"num_cond_frames": sampling.cond_frames, "enhance_hf": sampling.enhance_hf}
        options = sampling.options(sampling.seed + i * segments)
        made = [segment.frames[0] for segment in pipe.long_video(prompt, segments, **how, **options)]
        errors = tuple(colour_error(frames, facts) for frames in made)
        last = score(made[-1], facts)
        kept = all(last[name] == 1 for name in ("colour", "shape", "count"))
        yield Film(record["caption_en"], errors, kept, np.stack([frames[-1] for frames in made]))


def drift(made: Sequence[Film]) -> dict[str, Any]:
    """{"films", "segments", "errors": mean error of colour in levels of each segment, "first", "last", "ratio": last
    over first, None where the first is 0, "kept": `share` of the films}."""
    errors = np.mean([film.errors for film in made], axis=0).tolist()
    return {
        "films": len(made),
        "segments": len(errors),
        "errors": errors,
        "first": errors[0],
        "last": errors[-1],
        "ratio": errors[-1] / errors[0] if errors[0] else None,
        "kept": share(sum(film.kept for film in made), len(made)),
    }


def _staying(source: ToySource, count: int) -> list[int]:
    """The first `count` records all of whose objects stay in place."""
    fits = (n for n in range(len(source)) if all(each.motion in STAYING for each in source.facts(n).objects))
    return [number for number, _ in zip(fits, range(count), strict=False)]
