"""Sampling for reinforcement learning: groups of videos that part at one stochastic step (SPEC 8, GRPO).

A group shares its prompt, its initial noise and one critical step among the first few of the schedule. At that step
each member gets noise of its own, all other steps are those of plain sampling; so what members differ in is the answer
to one step's noise. A rollout is one program, a scan over the schedule, and leaves the critical steps as they were.
"""

import dataclasses
import enum
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.flow.solver import TAU, euler_step, sde_step
from lcv_jax.models.dit import DiT
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample.denoise import LATENTS, guided_velocity

Array = jax.Array
F32 = jnp.float32


class Stochastic(enum.StrEnum):
    """Which steps add noise: a group's critical one, as in the report, or every one that might be it (Flow-GRPO's way,
    to compare with)."""

    CRITICAL = "critical"
    ALL = "all"


@dataclasses.dataclass(frozen=True)
class Exploration:
    """How a rollout's noise is chosen.

    steps: T', the first steps of the schedule, among which a group's critical one is drawn uniformly. stochastic: see
    `Stochastic`. a, tau: of the noise (flow/solver.py, `sde_sigma`).
    """

    steps: int = 6
    stochastic: Stochastic = Stochastic.CRITICAL
    a: float = 1.0
    tau: float = TAU

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"exploration, steps={self.steps}: expected at least 1 critical step to choose from")
        if self.stochastic not in list(Stochastic):
            raise InputError(f"exploration, stochastic={self.stochastic!r}: expected {' or '.join(Stochastic)}")
        for name in ("a", "tau"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InputError(f"exploration, {name}={getattr(self, name)!r}: expected a number above 0")


@functools.partial(jax.tree_util.register_dataclass, data_fields=["noise", "critical", "keys"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Draw:
    """All that is random about B videos. noise: (B, T, h, w, C) initial, float32. critical: (B,) int32, index of the
    critical step; -1 has none. keys: (B,), of the noise that steps add."""

    noise: Array
    critical: Array
    keys: Array


@functools.partial(jax.tree_util.register_dataclass, data_fields=["before", "after", "mean", "t", "dt"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Transition:
    """The critical step of B videos. before, after: (B, T, h, w, C) float32, latents around it. mean: of `after`, when
    it was drawn. t, dt: (B,) float32, the level before it and what the step took off."""

    before: Array
    after: Array
    mean: Array
    t: Array
    dt: Array


def draw(key: Array, groups: int, group: int, shape: tuple[int, ...], steps: int) -> Draw:
    """For groups * group videos of latents `shape` (T, h, w, C), the members of a group one behind the other.

    What a group gets depends on the key and its number only, and a member's on its number in the group besides.
    """

    def one(number: Array) -> Draw:
        noise, critical, members = jax.random.split(jax.random.fold_in(key, number), 3)
        return Draw(
            noise=jax.random.normal(noise, shape, F32),
            critical=jax.random.randint(critical, (), 0, steps, jnp.int32),
            keys=jax.vmap(lambda i: jax.random.fold_in(members, i))(jnp.arange(group)),
        )

    drawn = jax.vmap(one)(jnp.arange(groups))
    members = functools.partial(jnp.repeat, repeats=group, axis=0)
    return Draw(members(drawn.noise), members(drawn.critical), drawn.keys.reshape(-1))


def rollout(
    model: DiT,
    variables: Mapping[str, Any],
    drawn: Draw,
    text: TextStates,
    sigmas: Array,
    guidance: Array | None,
    how: Exploration,
) -> tuple[Array, Transition]:
    """Final latents (B, T, h, w, C) and every video's critical step; a pure function, to be jitted.

    text, guidance: as for `denoise.sample_step`, (2 B, L, ...) with guidance. sigmas: (n + 1,) with the final 0.
    """
    place, B = model.placement, len(drawn.critical)

    def step(carry: tuple[Array, Transition], at: tuple[Array, Array, Array]) -> tuple[tuple[Array, Transition], None]:
        x, kept = carry
        index, t, t_next = at
        v = guided_velocity(model, variables, x, jnp.full(x.shape[:2], t), text, guidance=guidance)
        dt = t - t_next
        noise = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, index), x.shape[1:], F32))(drawn.keys)
        noisy, mean, _ = sde_step(x, v, t, dt, noise, how.a, how.tau)
        critical = drawn.critical == index
        parts = critical if how.stochastic == Stochastic.CRITICAL else jnp.full(B, index < how.steps)
        after = place(_where(parts, noisy, euler_step(x, v, t, t_next)), LATENTS)
        now = Transition(x, after, mean, jnp.full(B, t), jnp.full(B, dt))
        return (after, jax.tree.map(functools.partial(_where, critical), now, kept)), None

    x = place(drawn.noise, LATENTS)
    nothing = Transition(*(jnp.zeros_like(x),) * 3, jnp.zeros(B, F32), jnp.zeros(B, F32))
    sigmas = jnp.asarray(sigmas, F32)
    steps = jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:]
    (x, kept), _ = jax.lax.scan(step, (x, nothing), steps)
    return x, kept


def _where(rows: Array, new: Array, old: Array) -> Array:
    """rows: (B,) bool."""
    return jnp.where(rows.reshape(-1, *(1,) * (new.ndim - 1)), new, old)
