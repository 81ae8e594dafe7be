"""Pretraining (SPEC 8; report section 4): text, image and video to video in one objective, from noise to data."""

import dataclasses
import enum

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.flow.noise_levels import SHIFT_TOKENS, level, loss_weight, token_shift
from lcv_jax.flow.path import noised, velocity
from lcv_jax.models.dit import DiT
from lcv_jax.objectives.matching import Batch, Draw, Matching, MatchingSettings

Array = jax.Array
F32 = jnp.float32


class Told(enum.StrEnum):
    """Which timestep the network is given for a condition frame with noise: the noise's own, or that of a clean one."""

    LEVEL = "level"
    ZERO = "zero"


@dataclasses.dataclass(frozen=True)
class ConditionNoise:
    """Noise on the condition frames of a continuation, against the colour drift of long videos (SPEC 8).

    probability: of a frame to get any, each frame by itself. level: the largest t it gets, uniform up to there. told:
    its timestep. One condition frame is an image that its user gave, and stays clean.
    """

    probability: float = 0.0
    level: float = 0.1
    told: Told = Told.LEVEL

    def __post_init__(self):
        if not 0 <= self.probability <= 1:
            raise InputError(f"condition noise, probability={self.probability}: expected a number from 0 to 1")
        if not 0 < self.level < 1:
            raise InputError(f"condition noise, level={self.level}: expected a number above 0 and below 1")
        if self.told not in list(Told):
            raise InputError(f"condition noise, told={self.told!r}: expected {' or '.join(Told)}")


@dataclasses.dataclass(frozen=True)
class Pretraining(MatchingSettings):
    """What a config says of it. text_dropout: share of samples that see the empty prompt, for guidance. bins: equal
    parts of [0, 1] in which the error is reported by its noise level. shift_tokens: noisy tokens at which levels are
    not shifted (flow/noise_levels.py).
    """

    condition_noise: ConditionNoise = ConditionNoise()
    shift_tokens: int = SHIFT_TOKENS

    def __post_init__(self):
        super().__post_init__()
        if self.shift_tokens < 1:
            raise InputError(f"objective, shift_tokens={self.shift_tokens}: expected at least 1")

    def of(self, model: DiT) -> "Pretrain":
        return Pretrain(model, self)


@dataclasses.dataclass(frozen=True)
class Pretrain(Matching):
    """The objective as a value."""

    settings: Pretraining = Pretraining()

    def level(self, u: Array, batch: Batch) -> tuple[Array, Array]:
        _, T, h, w, _ = batch.latents.shape
        _, p, q = self.model.config.patch_size
        shift = token_shift((T - batch.num_cond) * (h // p) * (w // q), self.settings.shift_tokens)
        return level(u, shift), loss_weight(u)

    def path(self, batch: Batch, draw: Draw) -> tuple[Array, Array]:
        x = noised(batch.latents, draw.noise, draw.t[:, :, None, None, None])
        return x, velocity(batch.latents, draw.noise)

    def condition(self, chosen: Array, levels: Array, num_cond: int) -> tuple[Array, Array]:
        perturbed, clean = self.settings.condition_noise, jnp.zeros(num_cond, F32)
        if num_cond < 2 or not perturbed.probability:
            return clean, clean
        noisy = jax.random.bernoulli(chosen, float(perturbed.probability), (num_cond,))
        own = jax.random.uniform(levels, (num_cond,), F32, maxval=perturbed.level)
        t = jnp.where(noisy, own, 0)
        return t, t if perturbed.told == Told.LEVEL else clean
