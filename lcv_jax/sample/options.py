"""What a caller can choose for any task: checked, brought to plain Python types, published defaults filled in."""

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lcv_jax.data import buckets
from lcv_jax.errors import InputError

NUM_FRAMES = 93
SIZE = (480, 832)
FPS = 15
REFINED_FPS = 30
DISTILLED_LORA = "cfg_step"
"""Name of the LoRA that the distilled schedule takes."""
# JAX keeps 32 bits of a seed and would silently give a larger one the video of its remainder.
SEEDS = 2**32
# The model was trained on so many timesteps.
MAX_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every task. Raises InputError on any that is of a wrong type or out of range.

    negative_prompt: one for all prompts or one for each; used when guidance is above 1.
    steps: as published, 50, distilled 16. guidance: CFG-zero* scale, 4, distilled 1 (no second pass).
    distilled: the distilled schedule and the cfg_step LoRA. loras: names of further adapters; their outputs add up.
    seed: one for each video, or the first video's, the next ones then taking seed + 1, ...: a video depends on its
    own seed and not on the batch that it is in. latents: initial noise (B, T, h, w, C) of all frames instead of
    the seed's.
    resolution: "480p" or "720p", the size then being the bucket nearest to the input's aspect ratio; size: (height,
    width) in pixels instead. num_frames: of the whole video, the condition included; 4n + 1, others are rounded
    with a warning. posterior: "sample" or "mode" of the VAE's posterior of an image or video.
    output: "frames", uint8 (B, F, H, W, 3), or "latents", float32 (B, T, h, w, C), normalised, condition included.
    on_step: called with a `denoise.Step` after every step.
    """

    negative_prompt: str | Sequence[str] = ""
    steps: int | None = None
    guidance: float | None = None
    distilled: bool = False
    loras: str | Sequence[str] = ()
    seed: int | Sequence[int] = 0
    latents: Any = None
    resolution: str | None = None
    size: tuple[int, int] | None = None
    num_frames: int = NUM_FRAMES
    max_text_tokens: int = 512
    posterior: str = "sample"
    output: str = "frames"
    on_step: Callable[[Any], None] | None = None

    def __post_init__(self):
        one_of("distilled", self.distilled, (False, True))
        one_of("posterior", self.posterior, ("sample", "mode"))
        one_of("output", self.output, ("frames", "latents"))
        one_of("resolution", self.resolution, (None, "480p", "720p"))
        if self.on_step is not None and not callable(self.on_step):
            raise InputError(f"on_step={self.on_step!r}: expected a function of a step")
        if self.size is not None and self.resolution is not None:
            raise InputError(f"size={self.size} and resolution={self.resolution!r}: give one of them")
        plain = {
            "negative_prompt": texts("negative_prompt", self.negative_prompt, str),
            "steps": None if self.steps is None else whole("steps", self.steps, 1, MAX_STEPS + 1),
            "guidance": None if self.guidance is None else _guidance(self.guidance),
            "loras": tuple(texts("loras", self.loras, lambda name: (name,))),
            "seed": _seeds(self.seed),
            "size": None if self.size is None else _size(self.size),
            "num_frames": buckets.round_frames(whole("num_frames", self.num_frames, 1)),
            "max_text_tokens": whole("max_text_tokens", self.max_text_tokens, 1),
        }
        for name, value in plain.items():
            object.__setattr__(self, name, value)

    @property
    def run_steps(self) -> int:
        default = 16 if self.distilled else 50
        return default if self.steps is None else self.steps

    @property
    def run_guidance(self) -> float:
        default = 1.0 if self.distilled else 4.0
        return default if self.guidance is None else self.guidance

    @property
    def active_loras(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*([DISTILLED_LORA] if self.distilled else []), *self.loras]))

    def negative_prompts(self, count: int) -> tuple[str, ...]:
        if isinstance(self.negative_prompt, str):
            return (self.negative_prompt,) * count
        return _one_each("negative_prompt", self.negative_prompt, count)

    def seeds(self, count: int) -> tuple[int, ...]:
        if isinstance(self.seed, int):
            whole("the last seed", self.seed + count - 1, 0, SEEDS)
            return tuple(range(self.seed, self.seed + count))
        return _one_each("seed", self.seed, count)

    def pixel_size(self, like: tuple[int, int], factor: int) -> tuple[int, int]:
        """(height, width): the size asked for, or the bucket nearest to `like`; multiples of factor."""
        if self.size is None:
            return buckets.nearest(*like, self.resolution or "480p", factor)
        buckets.check_size(*self.size, factor)
        return self.size


def whole(name: str, value: Any, least: int, below: int | None = None) -> int:
    """A whole number of any integer type as an int; raises InputError on others and unless least <= value < below."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (below is not None and number >= below):
        upto = "" if below is None else f" and below {below}"
        raise InputError(f"{name}={value!r}: expected a whole number of at least {least}{upto}")
    return number


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raises InputError unless `value` is among the values allowed."""
    if not any(type(value) is type(a) and value == a for a in allowed):
        raise InputError(f"{name}={value!r}: expected one of {', '.join(repr(a) for a in allowed)}")


def texts(name: str, value: Any, alone: Callable[[str], Any]) -> Any:
    """What `alone` makes of a string, or the strings of a sequence as a tuple; raises InputError on other things."""
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, Sequence) or not all(isinstance(v, str) for v in strings):
        raise InputError(f"{name}={value!r}: expected a string or a list of strings")
    for text in strings:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{name}={text!r}: holds bytes that are no text, expected UTF-8") from None
    return alone(value) if isinstance(value, str) else tuple(value)


def _guidance(value: Any) -> float:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 1:
        raise InputError(f"guidance={value!r}: expected a number of at least 1, which is none")
    return float(value)


def _seeds(value: Any) -> int | tuple[int, ...]:
    if np.ndim(value) == 0:
        return whole("seed", value, 0, SEEDS)
    return tuple(whole("seed", v, 0, SEEDS) for v in value)


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, str) or np.shape(value) != (2,):
        raise InputError(f"size={value!r}: expected (height, width) in pixels")
    return tuple(whole("a side of size", side, 1) for side in value)


def _one_each(name: str, values: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(values) != count:
        raise InputError(f"{len(values)} values of {name} for {count} prompts: expected one for each")
    return values
