"""Consistency distillation in phases (arXiv 2405.18407; 2404.13686), behind the distillation of guidance (SPEC 8).

The 50 steps of the distilled schedule are cut into phases, and within each the student learns to go from anywhere on
the teacher's path to the phase's end in one step. With as many phases as steps are sampled, the ends are the levels
that the sampler visits, and its Euler step is what was learnt, with nothing added.

The map to the end s of the phase is f(x, t) = x + (t - s) v(x, t), the Euler step itself: at t = s it is the identity
whatever the network says. The teacher goes one step of the grid, from t to t', and what the student learns is to land
where its own running mean lands from there:

    x + (t - s) v = x' + (t' - s) v'    with    x' = x + (t - t') v_teacher

Solved for v, that is a mean of the two velocities, weighted by how far each leads. Errors are measured there and not
where the maps land, as (t - s)^2 differs by thousands between phases under the published shift.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import DISTILLED_GRID, Kind, sigmas
from lcv_jax.flow.solver import euler_step
from lcv_jax.models.dit import DiT
from lcv_jax.objectives.distillation import Distill, Distillation
from lcv_jax.objectives.matching import Batch
from lcv_jax.objectives.objective import Trees

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Consistency(Distillation):
    """What a config says of it. phases: the steps that the student is sampled with; 1 is plain consistency."""

    phases: int = 16
    reads: ClassVar[tuple[str, ...]] = ("lora", "reference", "ema")

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.phases <= DISTILLED_GRID:
            raise InputError(f"consistency, phases={self.phases}: expected a number from 1 to {DISTILLED_GRID}")

    @property
    def ends(self) -> np.ndarray:
        """(50,) float32: of each step of the grid the last level of its phase."""
        visited = sigmas(Kind.DISTILLED, self.phases, shift=self.shift)
        return np.float32([visited[visited <= level].max() for level in self.levels[1:]])

    def of(self, model: DiT) -> "ConsistencyDistill":
        return ConsistencyDistill(model, self)


@dataclasses.dataclass(frozen=True)
class ConsistencyDistill(Distill):
    """The objective as a value."""

    settings: Consistency = Consistency()

    def target(self, trees: Trees, batch: Batch, x: Array, step: Array) -> Array:
        """Reads trees.params, trees.reference, the teacher's adapters, and trees.ema, the student's running mean."""
        levels = jnp.asarray(self.settings.levels)
        t, t_next, end = levels[step], levels[step + 1], jnp.asarray(self.settings.ends)[step]
        teacher = self.velocity(trees, trees.reference, batch, x, t)
        after = euler_step(x, teacher, *(_like(level, x) for level in (t, t_next)))
        after = jnp.concatenate([x[:, : batch.num_cond], after[:, batch.num_cond :]], axis=1)
        student = self.velocity(trees, trees.ema, batch, after, t_next)
        return mean_velocity(teacher, student, *(_like(level, x) for level in (t, t_next, end)))


def mean_velocity(first: Array, second: Array, t: Array, t_next: Array, end: Array) -> Array:
    """The one velocity that leads from t to `end` where `first` to t_next and `second` from there lead together:
    `first` itself, to the last bit, where t_next is the end. t > t_next >= end, shaped to broadcast."""
    share = (t - t_next) / (t - end)
    return share * first + (1 - share) * second


def _like(level: Array, x: Array) -> Array:
    """(B,) -> (B, 1, 1, 1, 1)."""
    return level.reshape(-1, *(1,) * (x.ndim - 1))
