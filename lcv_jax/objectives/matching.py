"""Flow matching with masked conditions (SPEC 8; report section 4), along any straight path to the data.

Tasks are one with different numbers of clean frames in front: text to image and text to video have none, image to video
one, continuation n. They are outside the loss, and the network is told so by their timestep 0 and by `num_cond`.
"""

import abc
import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.flow.loss import squared_error
from lcv_jax.models.dit import DiT
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Average, Metrics, Settings, Trees
from lcv_jax.objectives.prompts import EMPTY, prompt

Array = jax.Array
F32 = jnp.float32
_DRAWN = ("noise", "level", "condition", "condition level", "text")


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["latents", "text", "upsampled"], meta_fields=["num_cond"]
)
@dataclasses.dataclass(frozen=True)
class Batch:
    """B samples of one size and one task.

    latents: (B, T, h, w, C) normalised, clean. text: (B, L, D) and its mask. num_cond: condition frames in front,
    static: each number has a compiled step of its own. upsampled: of pairs, what refinement starts from, like the
    latents.
    """

    latents: Array
    text: TextStates
    num_cond: int = 0
    upsampled: Array | None = None


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
class MatchingSettings(Settings):
    """text_dropout: share of samples that see the empty prompt. bins: equal parts of [0, 1] in which the error is
    reported by its noise level."""

    text_dropout: float = 0.1
    bins: int = 10

    def __post_init__(self):
        if not 0 <= self.text_dropout <= 1:
            raise InputError(f"objective, text_dropout={self.text_dropout}: expected a number from 0 to 1")
        if self.bins < 1:
            raise InputError(f"objective, bins={self.bins}: expected at least 1")

    @property
    def prompts(self) -> Mapping[str, str]:
        return {EMPTY: ""} if self.text_dropout else {}


@dataclasses.dataclass(frozen=True)
class Matching(abc.ABC):
    """Flow matching as a value; each has a path and levels of its own. model: with float32 parameters, any compute
    dtype."""

    model: DiT
    settings: MatchingSettings

    def __call__(self, trees: Trees, batch: Batch, keys: Array) -> tuple[Array, Metrics]:
        """See `objective.Objective`. Reads trees.params, trees.lora and the prompt "empty"."""
        return self.evaluate(trees, batch, self.draw(batch, keys))

    def draw(self, batch: Batch, keys: Array) -> Draw:
        """The batch's randomness, each sample from its own key."""
        return jax.vmap(functools.partial(self._draw_one, batch))(keys)

    def _draw_one(self, batch: Batch, key: Array) -> Draw:
        keys = dict(zip(_DRAWN, jax.random.split(key, len(_DRAWN)), strict=True))
        shape, n = batch.latents.shape[1:], batch.num_cond
        t, weight = self.level(jax.random.uniform(keys["level"], (), F32), batch)
        noisy = jnp.broadcast_to(t, (shape[0] - n,))
        cond, told = self.condition(keys["condition"], keys["condition level"], n)
        return Draw(
            noise=jax.random.normal(keys["noise"], shape, F32),
            t=jnp.concatenate([cond, noisy]),
            told=jnp.concatenate([told, noisy]),
            weight=weight,
            drop_text=jax.random.bernoulli(keys["text"], float(self.settings.text_dropout)),
        )

    def evaluate(self, trees: Trees, batch: Batch, draw: Draw) -> tuple[Array, Metrics]:
        """Loss and metrics for given randomness.

        Metrics: "loss", weighted, what is minimised; "error", the plain mean squared error; "error by level", (bins,)
        the same by noise level t.
        """
        x, target = self.path(batch, draw)
        text = self._text(trees, batch.text, draw.drop_text)
        v = self.model.apply(trees.variables, x, draw.told, text.states, text.mask, num_cond=batch.num_cond)
        error = squared_error(v, target, batch.num_cond)
        weighted = draw.weight * error
        bins = self.settings.bins
        inside = jax.nn.one_hot(jnp.clip((draw.t[:, -1] * bins).astype(jnp.int32), 0, bins - 1), bins, dtype=F32)
        by_level = Average(error @ inside, inside.sum(0))
        return weighted.mean(), {
            "loss": Average.of(weighted),
            "error": Average.of(error),
            "error by level": by_level,
        }

    @abc.abstractmethod
    def level(self, u: Array, batch: Batch) -> tuple[Array, Array]:
        """Level of a sample's noisy frames, and the weight of its loss, () each. u: uniform in [0, 1], ()."""

    @abc.abstractmethod
    def path(self, batch: Batch, draw: Draw) -> tuple[Array, Array]:
        """Where the path is at draw.t, and its velocity there, both float32 and like the latents."""

    def condition(self, chosen: Array, levels: Array, num_cond: int) -> tuple[Array, Array]:
        """Levels of a sample's condition frames, (num_cond,), and what the network is told of them: clean, by default.
        chosen, levels: keys."""
        del chosen, levels
        clean = jnp.zeros(num_cond, F32)
        return clean, clean

    def _text(self, trees: Trees, text: TextStates, drop: Array) -> TextStates:
        """The samples' text, replaced by the empty prompt where it is dropped."""
        if not self.settings.text_dropout:
            return text
        empty = prompt(trees, EMPTY, text)
        states = jnp.where(drop[:, None, None], empty.states, text.states)
        return TextStates(states, jnp.where(drop[:, None], empty.mask, text.mask))
