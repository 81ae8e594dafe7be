"""Refinement (SPEC 8): a LoRA leads a clip that is upsampled and half noise to the clip as it shall be.

x_thresh = (1 - t_th) upsampled + t_th noise, x_t = x0 + (x_thresh - x0) t / t_th for t in [0, t_th], and the velocity
is (x0 - x_thresh) / t_th. The network is told t, not t / t_th. Condition frames are clean, at 0, and outside the loss.
With t_th = 1 this is plain flow matching.

Levels are those of the sampler's schedule below t_th, each of its steps as often, and all count the same: with the
published 5 steps of 50 they lie denser near t_th. The report does not say how it draws and weighs them; a level that a
step begins at is one where an error counts, and no other is.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from lcv_jax import published
from lcv_jax.data.loader import Reads
from lcv_jax.errors import InputError
from lcv_jax.flow.noise_levels import level_below
from lcv_jax.flow.path import noised, onward, velocity
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.models.dit import DiT
from lcv_jax.objectives.matching import Batch, Draw, Matching, MatchingSettings

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Refinement(MatchingSettings):
    """What a config says of it. text_dropout: share of samples without their prompt, as long videos are refined. bins:
    see there. t_thresh: level at which refinement starts. shift: of the schedule it is sampled with, the checkpoint's.
    """

    t_thresh: float = 0.5
    shift: float = 12.0
    records: ClassVar[Reads] = Reads.PAIRS

    def __post_init__(self):
        super().__post_init__()
        if not published.is_number(self.t_thresh, float) or not 0 < self.t_thresh <= 1:
            raise InputError(f"refinement, t_thresh={self.t_thresh}: expected a number above 0 and at most 1")
        published.positive("refinement", "shift", self.shift, float)

    @property
    def schedule(self) -> ScheduleConfig:
        return ScheduleConfig(self.shift)

    def of(self, model: DiT) -> "Refine":
        return Refine(model, self)


@dataclasses.dataclass(frozen=True)
class Refine(Matching):
    """The objective as a value."""

    settings: Refinement = Refinement()

    def level(self, u: Array, batch: Batch) -> tuple[Array, Array]:
        del batch
        return level_below(u, self.settings.shift, self.settings.t_thresh), jnp.ones_like(u)

    def path(self, batch: Batch, draw: Draw) -> tuple[Array, Array]:
        """Raises InputError on a batch without `upsampled`."""
        if batch.upsampled is None:
            raise InputError(
                "refinement: the batch has no upsampled latents to start from: give pairs, which the cache writes with "
                "--pairs"
            )
        t_thresh = self.settings.t_thresh
        start = noised(batch.upsampled, draw.noise, t_thresh)
        x = onward(batch.latents, start, draw.t[:, :, None, None, None], t_thresh)
        return x, velocity(batch.latents, start, t_thresh)
