"""What is asked for, one value for any task: prompts, options and the frames to start from. No model is needed yet."""

import dataclasses
import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.data import images
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import Kind
from lcv_jax.sample.options import SIZE, Options, one_of, texts, whole

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Condition:
    """Frames that videos start with. frames: uint8 (n, F, H, W, 3), of any size, for all videos alike (n = 1) or for
    each its own (n = B). cached: whether their keys and values are computed once instead of at every step."""

    frames: np.ndarray
    cached: bool

    @property
    def length(self) -> int:
        """F."""
        return self.frames.shape[1]

    def rows(self, B: int, posterior: str) -> int:
        """Latents that differ: drawn from the posterior, every video has its own."""
        return len(self.frames) if posterior == "mode" else B


@dataclasses.dataclass(frozen=True)
class Request:
    """One run. like: (height, width) whose shape the video's size follows, unless the options give one."""

    prompts: tuple[str, ...]
    options: Options
    kind: Kind
    like: tuple[int, int]
    condition: Condition | None = None


def text_to_video(prompt: str | Sequence[str], options: Options) -> Request:
    """Noise and text only."""
    return Request(_prompts(prompt), options, _kind(options, Kind.BASE), SIZE)


def image_to_video(image: Any, prompt: str | Sequence[str], options: Options) -> Request:
    """The first latent is the image's. image: PIL image or uint8 (H, W, 3)."""
    frames = images.as_frames(image)
    if len(frames) != 1:
        raise InputError(f"{len(frames)} frames given as an image: expected one picture")
    # Officially without a cache: its frame then takes part in the guidance projection.
    condition = Condition(frames[None], cached=False)
    return Request(_prompts(prompt), options, _kind(options, Kind.BASE), frames.shape[1:3], condition)


def continuation(
    video: Any,
    prompt: str | Sequence[str],
    options: Options,
    *,
    num_cond_frames: int,
    kv_cache: bool,
    enhance_hf: bool | None,
) -> Request:
    """The last num_cond_frames (4n + 1) of the input stand in front. video: PIL images or uint8 (F, H, W, 3)."""
    frames = images.as_frames(video)
    count = whole("num_cond_frames", num_cond_frames, 1)
    one_of("kv_cache", kv_cache, (False, True))
    one_of("enhance_hf", enhance_hf, (None, False, True))
    if len(frames) < count:
        raise InputError(
            f"the video has {len(frames)} frames, fewer than num_cond_frames={count}: "
            "give a longer video or a smaller number, 4n + 1"
        )
    if enhance_hf and options.distilled:
        raise InputError("enhance_hf cannot be combined with the distilled schedule: leave one of them out")
    kind = _kind(options, Kind.BASE if enhance_hf is False else Kind.ENHANCE_HF)
    return Request(_prompts(prompt), options, kind, frames.shape[1:3], Condition(frames[None, -count:], kv_cache))


def filled_up(request: Request, devices: int) -> Request:
    """The request with its last video repeated until all of the `devices` that share a batch have as many rows; logged,
    if any is. Guidance has two rows for a video, which may lie on two devices."""
    B = len(request.prompts)
    missing = -B % (devices // math.gcd(devices, 2) if request.options.run_guidance > 1 else devices)
    if not missing:
        return request
    logger.info("videos: %d, filled up to %d, so that all devices have as many", B, B + missing)
    o = request.options

    def more(values: Sequence[Any]) -> tuple[Any, ...]:
        return (*values, *(values[-1],) * missing)

    def more_rows(array: Any) -> np.ndarray:
        return np.concatenate([array, *(np.asarray(array)[-1:],) * missing])

    latents, condition = None if o.latents is None else more_rows(o.latents), request.condition
    if condition is not None and len(condition.frames) > 1:
        condition = dataclasses.replace(condition, frames=more_rows(condition.frames))
    rows = {"seed": more(o.seeds(B)), "negative_prompt": more(o.negative_prompts(B)), "latents": latents}
    options = dataclasses.replace(o, **rows)
    return dataclasses.replace(request, prompts=more(request.prompts), options=options, condition=condition)


def together(requests: Sequence[Request]) -> Request:
    """Requests as one batch, in which each video keeps its prompts, its seed and its condition.

    Raises InputError on none, on initial noise, and on requests that differ in anything else.
    """
    if not requests or any(r.options.latents is not None for r in requests):
        raise InputError(
            f"{len(requests)} requests to run together: expected at least one, and seeds instead of latents"
        )
    if len(set(map(_common, requests))) > 1:
        raise InputError(
            "requests to run together differ in size, options or condition: expected requests that are alike"
        )
    each = [(r, len(r.prompts)) for r in requests]
    condition = requests[0].condition
    if condition is not None:
        rows = [np.broadcast_to(r.condition.frames, (n, *condition.frames.shape[1:])) for r, n in each]
        condition = dataclasses.replace(condition, frames=np.concatenate(rows))
    seeds = [seed for r, n in each for seed in r.options.seeds(n)]
    negatives = [text for r, n in each for text in r.options.negative_prompts(n)]
    options = dataclasses.replace(requests[0].options, seed=seeds, negative_prompt=negatives)
    prompts = tuple(prompt for r in requests for prompt in r.prompts)
    return dataclasses.replace(requests[0], prompts=prompts, options=options, condition=condition)


def _common(r: Request) -> tuple[Any, ...]:
    """What requests that run together have in common."""
    condition = r.condition and (r.condition.cached, r.condition.frames.shape[1:])
    return r.kind, r.like, dataclasses.replace(r.options, seed=0, negative_prompt=""), condition


def _kind(options: Options, otherwise: Kind) -> Kind:
    return Kind.DISTILLED if options.distilled else otherwise


def _prompts(prompt: str | Sequence[str]) -> tuple[str, ...]:
    prompts = texts("prompt", prompt, lambda text: (text,))
    if not prompts:
        raise InputError("no prompt: expected a string or a list of at least one")
    return prompts
