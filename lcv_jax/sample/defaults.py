"""What is taken for options that are left out: the published model's values, or those of the toy world's model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lcv_jax.sample.options import NUM_FRAMES

# Our own, of the kind that every official demo uses: a list of faults.
NEGATIVE_PROMPT = (
    "overexposed highlights, washed-out grey colours, motionless still frame, blurry smeared details, flicker, "
    "subtitles, captions and logos, low quality, heavy compression blocks, badly drawn hands, extra or fused fingers, "
    "deformed limbs, distorted face, messy background full of people, walking backwards"
)


@dataclasses.dataclass(frozen=True)
class Defaults:
    """size: (height, width) of every task but refinement; None is the trained size nearest to the input's shape.
    refine_size: that of refinement; None is the nearest of 720p. num_frames: the condition included. num_cond_frames:
    of continuations, 4n + 1. steps, guidance: of the schedules that are not distilled. negative_prompt: of the command;
    in Python it is empty.
    """

    size: tuple[int, int] | None = None
    refine_size: tuple[int, int] | None = None
    num_frames: int = NUM_FRAMES
    num_cond_frames: int = 13
    steps: int = 50
    guidance: float = 4.0
    max_text_tokens: int = 512
    negative_prompt: str = NEGATIVE_PROMPT

    def of_run(self, distilled: bool) -> dict[str, Any]:
        """Fields of `Options`; the distilled schedule has steps and guidance of its own."""
        names = (
            ("num_frames", "max_text_tokens") if distilled else ("num_frames", "max_text_tokens", "steps", "guidance")
        )
        return {name: getattr(self, name) for name in names}

    def filled_in(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of `Options` as given, with what is left out."""
        size = {} if self.size is None or {"size", "resolution"} & given.keys() else {"size": self.size}
        return {**self.of_run(bool(given.get("distilled"))), **size, **given}

    def of_refinement(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The same for a refinement, whose schedule is its own."""
        size = {} if {"size", "resolution"} & given.keys() else {"size": self.refine_size}
        return {"max_text_tokens": self.max_text_tokens, **size, **given}


PUBLISHED = Defaults()
"""Of every checkpoint that is named."""
TOY = Defaults((64, 64), (128, 128), num_frames=13, num_cond_frames=5, max_text_tokens=128, negative_prompt="")
"""Of the default checkpoint: the form that it was trained in. It knows no list of faults, but the empty prompt."""
