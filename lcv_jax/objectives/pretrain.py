"""Flow matching with masked conditions (SPEC 8; report section 4): text, image and video to video in one objective.

The tasks are one with different numbers of clean frames in front: text to image and text to video have none, image to
video one, continuation n. They are outside the loss, and the network is told so by their timestep 0 and by `num_cond`.
"""

import dataclasses
import enum
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.flow.loss import velocity_error
from lcv_jax.flow.noise_levels import SHIFT_TOKENS, level, loss_weight, token_shift
from lcv_jax.flow.path import noised
from lcv_jax.models.dit import DiT
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Average, Metrics, Settings, Trees
from lcv_jax.objectives.prompts import EMPTY, prompt

Array = jax.Array
F32 = jnp.float32


@functools.partial(jax.tree_util.register_dataclass, data_fields=["latents", "text"], meta_fields=["num_cond"])
@dataclasses.dataclass(frozen=True)
class Batch:
    """B samples of one size and one task.

    latents: (B, T, h, w, C) normalised, clean. text: (B, L, D) and its mask. num_cond: condition frames in front,
    static: each number has a compiled step of its own.
    """

    latents: Array
    text: TextStates
    num_cond: int = 0


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


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["noise", "t", "told", "weight", "drop_text"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Draw:
    """All that is random about a batch.

    noise: like the latents. t: (B, T) level of every frame. told: (B, T) what the network is told of it. weight: (B,)
    of the loss. drop_text: (B,) bool, the empty prompt instead of the sample's.
    """

    noise: Array
    t: Array
    told: Array
    weight: Array
    drop_text: Array


@dataclasses.dataclass(frozen=True)
class Pretraining(Settings):
    """What a config says of it. text_dropout: share of samples that see the empty prompt, for guidance. bins: equal
    parts of [0, 1] in which the error is reported by its noise level. shift_tokens: noisy tokens at which levels are
    not shifted (flow/noise_levels.py).
    """

    text_dropout: float = 0.1
    condition_noise: ConditionNoise = ConditionNoise()
    bins: int = 10
    shift_tokens: int = SHIFT_TOKENS

    def __post_init__(self):
        if not 0 <= self.text_dropout <= 1:
            raise InputError(f"pretraining, text_dropout={self.text_dropout}: expected a number from 0 to 1")
        if self.bins < 1:
            raise InputError(f"pretraining, bins={self.bins}: expected at least 1")
        if self.shift_tokens < 1:
            raise InputError(f"pretraining, shift_tokens={self.shift_tokens}: expected at least 1")

    @property
    def prompts(self) -> Mapping[str, str]:
        return {EMPTY: ""} if self.text_dropout else {}

    def of(self, model: DiT) -> "Pretrain":
        return Pretrain(model, self)


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """The objective as a value. model: with float32 parameters and any compute dtype."""

    model: DiT
    settings: Pretraining = Pretraining()

    def __call__(self, trees: Trees, batch: Batch, keys: Array) -> tuple[Array, Metrics]:
        """See `objective.Objective`. Reads trees.params, trees.lora and the prompt "empty"."""
        return self.evaluate(trees, batch, self.draw(batch, keys))

    def draw(self, batch: Batch, keys: Array) -> Draw:
        """The batch's randomness, each sample from its own key."""
        _, T, h, w, _ = batch.latents.shape
        _, p, q = self.model.config.patch_size
        shift = token_shift((T - batch.num_cond) * (h // p) * (w // q), self.settings.shift_tokens)
        one = functools.partial(self._draw_one, shape=batch.latents.shape[1:], num_cond=batch.num_cond, shift=shift)
        return jax.vmap(one)(keys)

    def _draw_one(self, key: Array, *, shape: tuple[int, ...], num_cond: int, shift: float) -> Draw:
        names = ("noise", "level", "condition", "condition level", "text")
        key = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        u = jax.random.uniform(key["level"], (), F32)
        cond = jnp.zeros(num_cond, F32)
        perturbed = self.settings.condition_noise
        if num_cond > 1 and perturbed.probability:
            chosen = jax.random.bernoulli(key["condition"], float(perturbed.probability), (num_cond,))
            own = jax.random.uniform(key["condition level"], (num_cond,), F32, maxval=perturbed.level)
            cond = jnp.where(chosen, own, 0)
        told = cond if perturbed.told == Told.LEVEL else jnp.zeros_like(cond)
        noisy = jnp.broadcast_to(level(u, shift), (shape[0] - num_cond,))
        return Draw(
            noise=jax.random.normal(key["noise"], shape, F32),
            t=jnp.concatenate([cond, noisy]),
            told=jnp.concatenate([told, noisy]),
            weight=loss_weight(u),
            drop_text=jax.random.bernoulli(key["text"], float(self.settings.text_dropout)),
        )

    def evaluate(self, trees: Trees, batch: Batch, draw: Draw) -> tuple[Array, Metrics]:
        """Loss and metrics for given randomness.

        Metrics: "loss", weighted, what is minimised; "error", the plain mean squared error; "error by level", (bins,)
        the same by noise level t.
        """
        x = noised(batch.latents, draw.noise, draw.t[:, :, None, None, None])
        text = self._text(trees, batch.text, draw.drop_text)
        v = self.model.apply(trees.variables, x, draw.told, text.states, text.mask, num_cond=batch.num_cond)
        error = velocity_error(v, batch.latents, draw.noise, batch.num_cond)
        weighted = draw.weight * error
        bins = self.settings.bins
        inside = jax.nn.one_hot(jnp.clip((draw.t[:, -1] * bins).astype(jnp.int32), 0, bins - 1), bins, dtype=F32)
        by_level = Average(error @ inside, inside.sum(0))
        return weighted.mean(), {
            "loss": Average.of(weighted),
            "error": Average.of(error),
            "error by level": by_level,
        }

    def _text(self, trees: Trees, text: TextStates, drop: Array) -> TextStates:
        """The samples' text, replaced by the empty prompt where it is dropped."""
        if not self.settings.text_dropout:
            return text
        empty = prompt(trees, EMPTY, text)
        states = jnp.where(drop[:, None, None], empty.states, text.states)
        return TextStates(states, jnp.where(drop[:, None], empty.mask, text.mask))
