"""Distillation of guidance (SPEC 8): a LoRA learns to say in one pass what CFG-zero* makes of two.

The teacher is the model without the LoRA, asked for the prompt and for one fixed negative prompt. Its projection runs
over noisy frames alone, as in sampling with cached condition frames: what a network says of condition frames is trained
by no loss, and would move the scale of all others. Nothing is cached here, because keys and values of a batch's
condition frames take gigabytes in the published model, and asking twice only the frames' share of two passes.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from lcv_jax import published
from lcv_jax.errors import InputError
from lcv_jax.flow.guidance import cfg_zero
from lcv_jax.models.dit import DiT
from lcv_jax.objectives.distillation import Distill, Distillation, frame_levels
from lcv_jax.objectives.matching import Batch
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.prompts import NEGATIVE, prompt
from lcv_jax.sample.defaults import NEGATIVE_PROMPT
from lcv_jax.sample.denoise import with_negative

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class CFGDistillation(Distillation):
    """What a config says of it. guidance: the teacher's scale. negative_prompt: its text, which the data hold the
    states of (data/cache.py)."""

    guidance: float = 4.0
    negative_prompt: str = NEGATIVE_PROMPT

    def __post_init__(self):
        super().__post_init__()
        if not published.is_number(self.guidance, float) or self.guidance <= 1:
            raise InputError(f"CFG distillation, guidance={self.guidance}: expected a number above 1, which is none")

    @property
    def prompts(self) -> Mapping[str, str]:
        return {NEGATIVE: self.negative_prompt}

    def of(self, model: DiT) -> "CFGDistill":
        return CFGDistill(model, self)


@dataclasses.dataclass(frozen=True)
class CFGDistill(Distill):
    """The objective as a value."""

    settings: CFGDistillation = CFGDistillation()

    def target(self, trees: Trees, batch: Batch, x: Array, step: Array) -> Array:
        """The teacher's guided velocity. Reads trees.params and the prompt "negative"."""
        n, t = batch.num_cond, jnp.asarray(self.settings.levels)[step]
        negative = jax.tree.map(
            lambda one, all_: jnp.broadcast_to(one, all_.shape), prompt(trees, NEGATIVE, batch.text), batch.text
        )
        text = with_negative(negative, batch.text)
        x, times = (jnp.repeat(each, 2, axis=0) for each in (x, frame_levels(batch, t)))
        both = self.model.apply(trees.with_adapters(None), x, times, text.states, text.mask, num_cond=n)
        guided = cfg_zero(both[1::2, n:], both[::2, n:], self.settings.guidance)
        return jnp.concatenate([both[1::2, :n], guided], axis=1)
