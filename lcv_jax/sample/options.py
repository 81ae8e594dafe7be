"""What a caller can choose for any task, checked, with the published defaults filled in."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from lcv_jax.data import buckets
from lcv_jax.errors import InputError
from lcv_jax.sample.denoise import Step

NUM_FRAMES = 93
SIZE = (480, 832)
FPS = 15


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of every task.

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
    on_step: called with a `Step` after every step.
    """

    negative_prompt: str | Sequence[str] = ""
    steps: int | None = None
    guidance: float | None = None
    distilled: bool = False
    loras: Sequence[str] = ()
    seed: int | Sequence[int] = 0
    latents: Any = None
    resolution: str | None = None
    size: tuple[int, int] | None = None
    num_frames: int = NUM_FRAMES
    max_text_tokens: int = 512
    posterior: str = "sample"
    output: str = "frames"
    on_step: Callable[[Step], None] | None = None

    def __post_init__(self):
        _one_of("posterior", self.posterior, ("sample", "mode"))
        _one_of("output", self.output, ("frames", "latents"))
        _one_of("resolution", self.resolution, (None, "480p", "720p"))
        if self.size is not None and self.resolution is not None:
            raise InputError(f"size={self.size} and resolution={self.resolution!r}: give one of them")
        if self.num_frames < 1:
            raise InputError(f"num_frames={self.num_frames}: expected at least 1")
        if self.guidance is not None and not self.guidance >= 1:
            raise InputError(f"guidance={self.guidance}: expected at least 1, which is none")

    @property
    def run_steps(self) -> int:
        default = 16 if self.distilled else 50
        return default if self.steps is None else self.steps

    @property
    def run_guidance(self) -> float:
        default = 1.0 if self.distilled else 4.0
        return default if self.guidance is None else float(self.guidance)

    @property
    def active_loras(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(["cfg_step"] if self.distilled else []), *self.loras]))

    def prompts(self, prompt: str | Sequence[str]) -> list[str]:
        """The prompts as a list."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise InputError("no prompt: expected a string or a list of at least one")
        return prompts

    def negative_prompts(self, count: int) -> list[str]:
        if isinstance(self.negative_prompt, str):
            return [self.negative_prompt] * count
        return _one_each("negative_prompt", self.negative_prompt, count)

    def seeds(self, count: int) -> list[int]:
        if isinstance(self.seed, int):
            return [self.seed + i for i in range(count)]
        return _one_each("seed", self.seed, count)

    def frame_count(self) -> int:
        return buckets.round_frames(self.num_frames)

    def pixel_size(self, like: tuple[int, int], factor: int) -> tuple[int, int]:
        """(height, width): the size asked for, or the bucket nearest to `like`; multiples of factor."""
        if self.size is None:
            return buckets.nearest(*like, self.resolution or "480p", factor)
        height, width = self.size
        buckets.check_size(height, width, factor)
        return height, width


def _one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(repr(a) for a in allowed)}")


def _one_each(name: str, values: Sequence[Any], count: int) -> list[Any]:
    if len(values) != count:
        raise InputError(f"{len(values)} values of {name} for {count} prompts: expected one for each")
    return list(values)
