"""What both distillations share: who is asked at which levels, and how what the student says is measured.

Students are sampled at levels of the distilled schedule alone, so those are drawn, each of the 50 as often. The levels
of pretraining would give the first step, at t = 1, no weight. Errors have no weights either: what is learnt is a
function of what the student sees, no more uncertain at the ends of the path than in the middle of it.
"""

import abc
import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax import published
from lcv_jax.flow.loss import squared_error
from lcv_jax.flow.path import noised
from lcv_jax.flow.schedule import DISTILLED_GRID, Kind, ScheduleConfig, sigmas
from lcv_jax.models.dit import DiT
from lcv_jax.objectives.matching import Batch
from lcv_jax.objectives.objective import Average, Metrics, Settings, Tree, Trees

Array = jax.Array
F32 = jnp.float32
PARTS = 10
"""Of the schedule, in each of which the error is told by itself: as many steps in each, from noise to data."""


@dataclasses.dataclass(frozen=True)
class Distillation(Settings):
    """shift: of the schedule that the student is sampled with, the checkpoint's."""

    shift: float = 12.0
    reads: ClassVar[tuple[str, ...]] = ("lora",)

    def __post_init__(self):
        published.positive("distillation", "shift", self.shift, float)

    @property
    def schedule(self) -> ScheduleConfig:
        return ScheduleConfig(self.shift)

    @property
    def levels(self) -> np.ndarray:
        """(51,) float32, from 1 down to the final 0: step i of the grid leads from level i to level i + 1."""
        return sigmas(Kind.DISTILLED, DISTILLED_GRID, shift=self.shift)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["noise", "step"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Draw:
    """All that is random about a batch. noise: like the latents. step: (B,) int32, of the grid."""

    noise: Array
    step: Array


@dataclasses.dataclass(frozen=True)
class Distill(abc.ABC):
    """A distillation as a value; each has a target of its own. model: with float32 parameters, any compute dtype."""

    model: DiT
    settings: Distillation

    def __call__(self, trees: Trees, batch: Batch, keys: Array) -> tuple[Array, Metrics]:
        """See `objective.Objective`. Reads trees.params and trees.lora, the student's, and what `target` reads."""
        return self.evaluate(trees, batch, self.draw(batch, keys))

    def draw(self, batch: Batch, keys: Array) -> Draw:
        """The batch's randomness, each sample from its own key."""

        def one(key: Array) -> Draw:
            noise, step = jax.random.split(key)
            shape = batch.latents.shape[1:]
            return Draw(jax.random.normal(noise, shape, F32), jax.random.randint(step, (), 0, DISTILLED_GRID))

        return jax.vmap(one)(keys)

    def evaluate(self, trees: Trees, batch: Batch, draw: Draw) -> tuple[Array, Metrics]:
        """Loss and metrics for given randomness.

        Metrics: "loss", the mean squared error of noisy frames; "error by step", (PARTS,) the same by part of the
        schedule.
        """
        t = jnp.asarray(self.settings.levels)[draw.step]
        x = noised(batch.latents, draw.noise, frame_levels(batch, t)[:, :, None, None, None])
        target = jax.lax.stop_gradient(self.target(trees, batch, x, draw.step))
        error = squared_error(self.velocity(trees, trees.lora, batch, x, t), target, batch.num_cond)
        inside = jax.nn.one_hot(draw.step * PARTS // DISTILLED_GRID, PARTS, dtype=F32)
        return error.mean(), {"loss": Average.of(error), "error by step": Average(error @ inside, inside.sum(0))}

    @abc.abstractmethod
    def target(self, trees: Trees, batch: Batch, x: Array, step: Array) -> Array:
        """The velocity (B, T, h, w, C) that the student learns of x, which is at the first level of `step` (B,). What
        it has in condition frames is not looked at."""

    def velocity(self, trees: Trees, lora: Tree, batch: Batch, x: Array, t: Array) -> Array:
        """The model's, float32, with these adapters active and without guidance. x: (B, T, h, w, C) at t (B,)."""
        text, times = batch.text, frame_levels(batch, t)
        variables = trees.with_adapters(lora)
        return self.model.apply(variables, x, times, text.states, text.mask, num_cond=batch.num_cond)


def frame_levels(batch: Batch, t: Array) -> Array:
    """t (B,) of the noisy frames -> (B, T); condition frames are clean, as in sampling."""
    noisy = jnp.arange(batch.latents.shape[1]) >= batch.num_cond
    return jnp.where(noisy, t[:, None], 0)
