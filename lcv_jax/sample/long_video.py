"""Long and interactive videos (SPEC 6): a first segment, then continuations of its last frames as they were decoded.

Nothing of a finished segment is kept but its tail, so memory does not grow with length, and a run can go on from a tail
that was stored.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from lcv_jax.data import images
from lcv_jax.errors import InputError
from lcv_jax.sample import memory
from lcv_jax.sample import plan as plans
from lcv_jax.sample import refine as refinement
from lcv_jax.sample import request as requests
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options, one_of, texts, whole
from lcv_jax.sample.refine import RefinePlan, RefineRequest
from lcv_jax.sample.request import Request

# Ways to refine, with the frames that each makes of one.
REFINED_FRAMES = {"off": 1, "spatial": 1, "spatio-temporal": 2}


@dataclasses.dataclass(frozen=True)
class Tail:
    """What a segment leaves to the next one. index: of the segment. frames: its last num_cond_frames as decoded, uint8
    (F, H, W, 3). refined: the same frames after refinement, at the refined size and rate; None where there are none."""

    index: int
    frames: np.ndarray
    refined: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """index: from 0. frames: what is new, uint8 (1, F, H, W, 3), refined if that was asked for. latents: float32
    (1, T, h, w, C), normalised, of all that was sampled: condition included, before refinement. tail: to go on from."""

    index: int
    prompt: str
    frames: np.ndarray
    latents: np.ndarray
    tail: Tail


@dataclasses.dataclass(frozen=True)
class Links:
    """How a segment continues the one before, as the options of the same names of `Pipeline.continue_video`."""

    num_cond_frames: int
    kv_cache: bool = True
    enhance_hf: bool | None = None

    def __post_init__(self):
        object.__setattr__(self, "num_cond_frames", whole("num_cond_frames", self.num_cond_frames, 1))


@dataclasses.dataclass(frozen=True)
class LongRequest:
    """A long video. prompts, options: one for each segment. image: that the first segment starts with. start: what to
    go on from. refine: a key of REFINED_FRAMES. refine_size: (height, width) of the refined video, None for 720p."""

    prompts: tuple[str, ...]
    options: tuple[Options, ...]
    image: np.ndarray | None
    start: Tail | None
    links: Links
    refine: str
    refine_size: tuple[int, int] | None

    @property
    def first(self) -> int:
        """Index of the first segment to make."""
        return 0 if self.start is None else self.start.index + 1

    def segment(self, index: int, tail: Tail | None) -> Request:
        """What to ask the pipeline for. tail: of the segment before."""
        prompt, options = self.prompts[index], self.options[index]
        if tail is not None:
            return requests.continuation(tail.frames, prompt, options, **dataclasses.asdict(self.links))
        if self.image is not None:
            return requests.image_to_video(self.image, prompt, options)
        return requests.text_to_video(prompt, options)

    def refine_options(self, index: int) -> Options:
        """Refinement has its own schedule, size and adapter, and no guidance."""
        o = self.options[index]
        return Options(
            guidance=1.0,
            seed=o.seed,
            size=self.refine_size,
            max_text_tokens=o.max_text_tokens,
            posterior=o.posterior,
            on_step=o.on_step,
        )


def request(
    opened: Opened,
    prompts: str | Sequence[str],
    num_segments: int,
    options: Options,
    links: Links,
    *,
    image: Any = None,
    video: Any = None,
    refine: str = "off",
    refine_size: tuple[int, int] | None = None,
    start: Tail | None = None,
) -> LongRequest:
    """Takes what `Pipeline.long_video` takes; raises InputError on what can be seen to be wrong before any work."""
    count = whole("num_segments", num_segments, 1)
    one_of("refine", refine, tuple(REFINED_FRAMES))
    if image is not None and video is not None:
        raise InputError("image and video are both given: a long video starts with one of them")
    each = _each(options, count)
    image = None if image is None else images.as_frames(image)
    refine_size = refine_size or opened.defaults.refine_size
    asked = LongRequest(_prompts(prompts, count), each, image, None, links, refine, refine_size)
    before = None if video is None else Tail(-1, images.as_frames(video))
    size = plans.plan(opened, asked.segment(0, before)).size
    if before is not None:
        before = Tail(-1, images.resize_lanczos(before.frames[-links.num_cond_frames :], size))
    each = tuple(dataclasses.replace(o, size=size, resolution=None) for o in each)
    start = before if start is None else _checked_start(start, asked, size)
    return dataclasses.replace(asked, options=each, start=start)


def kinds(opened: Opened, asked: LongRequest) -> Iterator[tuple[Request, tuple[RefinePlan, Options] | None]]:
    """The requests and refinements that segments are made by, one of each kind; InputError for what cannot be."""
    size = asked.options[0].size
    blank = np.broadcast_to(np.uint8(0), (asked.links.num_cond_frames, *size, 3))
    # All segments but the first are alike.
    for index in range(asked.first, len(asked.prompts))[:2]:
        tail = asked.start if index == asked.first else Tail(index - 1, blank)
        refining = None
        if asked.refine != "off":
            o, video = asked.refine_options(index), (asked.options[index].num_frames, *size)
            cond = REFINED_FRAMES[asked.refine] * len(blank) if index > 0 else 0
            refining = refinement.plan(opened, video, cond, o, spatial_only=asked.refine == "spatial"), o
        yield asked.segment(index, tail), refining


def needed_bytes(opened: Opened, asked: LongRequest) -> int:
    """Memory that the largest segment needs beside the weights, about; InputError for what the model cannot do."""
    needed = 0
    for r, refining in kinds(opened, asked):
        needed = max(needed, plans.run_bytes(opened, r, plans.plan(opened, r)))
        if refining is not None:
            needed = max(needed, refinement.run_bytes(opened, *refining))
    return needed


def check_memory(opened: Opened, asked: LongRequest) -> None:
    """Raises InputError if a segment does not fit beside what is on the device now."""
    memory.check(
        needed_bytes(opened, asked),
        f"a segment of {asked.options[0].num_frames} frames",
        "choose a smaller size, fewer frames a segment, or tiles for the autoencoder",
        opened.placement.mesh,
    )


class Maker(Protocol):
    """What makes the segments: a `pipeline.Pipeline`."""

    opened: Opened

    def run(self, request: Request) -> np.ndarray: ...

    def run_refine(self, asked: RefineRequest, prompt: str) -> np.ndarray: ...

    def frames(self, latents: Any) -> np.ndarray: ...


def segments(pipe: Maker, asked: LongRequest) -> Iterator[Segment]:
    """Makes one segment after another."""
    tail = asked.start
    for index in range(asked.first, len(asked.prompts)):
        segment = _segment(pipe, asked, index, tail)
        tail = segment.tail
        yield segment
        del segment  # or it would be alive while the next one is made


def _segment(pipe: Maker, asked: LongRequest, index: int, before: Tail | None) -> Segment:
    latents = pipe.run(asked.segment(index, before))
    made = pipe.frames(latents)
    overlap = 0 if before is None else len(before.frames)
    new = made[:, overlap:]
    keep = made[0, -asked.links.num_cond_frames :].copy()  # a view would keep all frames alive
    tail = Tail(index, keep)
    if asked.refine != "off":
        window = new[0] if before is None else np.concatenate([before.frames, new[0]])
        refined = _refined(pipe, asked, index, window, None if before is None else before.refined)
        rate = REFINED_FRAMES[asked.refine]
        tail = Tail(index, keep, refined[0, -rate * asked.links.num_cond_frames :].copy())
        new = refined[:, rate * overlap :]
    return Segment(index, asked.prompts[index], new, latents, tail)


def _refined(pipe: Maker, asked: LongRequest, index: int, window: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """The window, uint8 (F, H, W, 3), refined, (1, F', H', W', 3). before: what it starts with, refined already.

    Without a prompt, as officially: what a window shows is in its frames.
    """
    r = refinement.request(
        pipe.opened,
        window,
        asked.refine_options(index),
        condition=before,
        num_cond_frames=0 if before is None else len(before),
        spatial_only=asked.refine == "spatial",
    )
    return refinement.trimmed(pipe.frames(pipe.run_refine(r, "")), r.plan.window)


def _prompts(prompts: str | Sequence[str], count: int) -> tuple[str, ...]:
    """One for each segment; a single one serves all."""
    found = texts("prompts", prompts, lambda text: (text,))
    if len(found) not in (1, count):
        raise InputError(f"{len(found)} prompts for num_segments={count}: expected one, or one for each segment")
    return found * count if len(found) == 1 else found


def _each(options: Options, count: int) -> tuple[Options, ...]:
    """Every segment's own options: what others have one of for each video, a long video has for each segment."""
    if options.output != "frames":
        raise InputError(f"output={options.output!r}: a long video's segments hold frames and latents, leave it out")
    if options.latents is not None and len(options.latents) != count:
        raise InputError(f"latents of shape {np.shape(options.latents)}: expected ({count}, T, h, w, C), one a segment")
    rows = [None] * count if options.latents is None else [options.latents[i : i + 1] for i in range(count)]
    return tuple(
        dataclasses.replace(options, negative_prompt=negative, seed=seed, latents=latents, output="latents")
        for negative, seed, latents in zip(options.negative_prompts(count), options.seeds(count), rows, strict=True)
    )


def _checked_start(start: Tail, asked: LongRequest, size: tuple[int, int]) -> Tail:
    whole("the index of start", start.index, 0, len(asked.prompts))
    frames, count = images.as_frames(start.frames), asked.links.num_cond_frames
    if frames.shape[:3] != (count, *size):
        raise InputError(f"start holds frames of shape {frames.shape}: expected {(count, *size, 3)}")
    if asked.refine != "off" and start.refined is None:
        raise InputError(f"start holds no refined frames: refine={asked.refine!r} needs those of the segment before")
    return start
