"""Group relative policy optimisation of flow models (SPEC 8, GRPO; report section 5).

A step of sampling that adds noise is a policy: it draws x' from a Gaussian around what the velocity says. Videos of a
group are told apart by rewards, and the policy is moved towards the noise of the better ones.

Maximised, with r the ratio of probabilities of x' under the policy and under the one that drew it, s the clipped
standard deviation of the noise (flow/solver.py, `sde_sigma`) and A the advantage:

    s / sqrt(dt) r A  -  beta s^2 / dt KL(policy, reference)

The weights undo what a shifted schedule does to gradients, which would else vanish with sqrt(dt) / s: the gradient with
respect to the velocity is then the step's noise times 1 + s^2 (1 - t) / (2 t).

Log-probabilities and KL are MEANS over a video's numbers, not sums. Both terms are divided by the same count, so their
balance is that of the report, and a constant factor on the gradient is nothing to Adam; but a rate, a clipping of the
ratio and what is reported do not depend on the size of the videos, and ratios of several updates stay near 1 where a
product of millions of factors would be 0 or infinite. The mean's ratio is the geometric mean of the numbers' ratios.
"""

import dataclasses
import enum
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.flow.solver import TAU, sde_mean, sde_sigma
from lcv_jax.models.dit import DiT
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Average, Metrics, Trees
from lcv_jax.objectives.prompts import NEGATIVE, prompt
from lcv_jax.sample.denoise import guided_velocity, with_negative
from lcv_jax.sample.rollout import Exploration, Transition

Array = jax.Array
F32 = jnp.float32


class Scale(enum.StrEnum):
    """What the differences of rewards within a group are divided by: the largest standard deviation of any group, as in
    the report, or each group's own."""

    LARGEST = "largest"
    OWN = "own"


class Weighting(enum.StrEnum):
    """Of the two terms by the step's noise: the report's, or none."""

    NOISE = "noise"
    NONE = "none"


@dataclasses.dataclass(frozen=True)
class GRPO:
    """What a config says of it.

    exploration: how rollouts are drawn. beta: weight of the divergence from the model without the LoRA, 0 leaves it
    out. clip: largest distance of a ratio from 1 that is still gained by, as in PPO; None, the report's, has no bound.
    weighting, scale: the report's, or what they are compared with.
    """

    exploration: Exploration = dataclasses.field(default_factory=Exploration)
    beta: float = 3e-4
    clip: float | None = None
    weighting: Weighting = Weighting.NOISE
    scale: Scale = Scale.LARGEST

    def __post_init__(self):
        if not 0 <= self.beta < float("inf"):
            raise InputError(f"GRPO, beta={self.beta!r}: expected a number from 0")
        if self.clip is not None and not 0 < self.clip < 1:
            raise InputError(f"GRPO, clip={self.clip!r}: expected a number above 0 and below 1, or None")
        for name, kind in (("weighting", Weighting), ("scale", Scale)):
            if getattr(self, name) not in list(kind):
                raise InputError(f"GRPO, {name}={getattr(self, name)!r}: expected {' or '.join(kind)}")

    def of(self, model: DiT, guidance: float) -> "GroupPolicy":
        return GroupPolicy(model, self, guidance)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["transition", "advantage", "weight", "text"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class Judged:
    """B videos of rollouts. transition: their critical steps. advantage: (B,) float32. weight: (B,) float32 of the
    video in the mean, 0 if it is left out. text: of the prompts, (B, L, D) and the mask."""

    transition: Transition
    advantage: Array
    weight: Array
    text: TextStates


@dataclasses.dataclass(frozen=True)
class GroupPolicy:
    """The objective as a value. model: with parameters of any dtype, under a LoRA. guidance: of CFG-zero*, with which
    rollouts are sampled; 1 has no second pass."""

    model: DiT
    settings: GRPO
    guidance: float

    def __call__(self, trees: Trees, batch: Judged, keys: Array) -> tuple[Array, Metrics]:
        """See `objective.Objective`. Reads trees.params, trees.lora and, with guidance, the prompt "negative". Nothing
        is random, so the keys are not used.

        The mean is that of the guided velocity, with the gradient through both of its passes. Metrics, over the videos
        that are not left out but for the loss: "loss", what is minimised; "kl" in nats for each number of a latent,
        unweighted, if beta is not 0; "ratio"; "clipped", the share of ratios that are held, if any are.
        """
        del keys
        step, settings = batch.transition, self.settings
        mean, std = self.mean(trees, batch)
        ratio = jnp.exp(log_ratio(step.after, mean, step.mean, std))
        weights = self._weights(step.t, step.dt)
        kept = (batch.weight > 0).astype(F32)
        metrics = {"ratio": _over(kept, ratio)}
        gain = ratio * batch.advantage
        if settings.clip is not None:
            held = jnp.clip(ratio, 1 - settings.clip, 1 + settings.clip) * batch.advantage
            metrics["clipped"] = _over(kept, (held < gain).astype(F32))
            gain = jnp.minimum(gain, held)
        loss = -weights[0] * gain
        if settings.beta:
            reference, _ = self.mean(dataclasses.replace(trees, lora=None), batch)
            divergence = gaussian_kl(mean, jax.lax.stop_gradient(reference), std)
            metrics["kl"] = _over(kept, divergence)
            loss += settings.beta * weights[1] * divergence
        loss = batch.weight * loss
        return loss.mean(), {"loss": Average.of(loss), **metrics}

    def mean(self, trees: Trees, batch: Judged) -> tuple[Array, Array]:
        """Of x' under the policy that the trees are, (B, T, h, w, C), and its standard deviation, (B, 1, 1, 1, 1)."""
        step, text, guidance = batch.transition, batch.text, None
        if self.guidance != 1:
            text, guidance = guided_text(trees, text), self.guidance
        times = jnp.broadcast_to(step.t[:, None], step.before.shape[:2])
        v = guided_velocity(self.model, trees.variables, step.before, times, text, guidance=guidance)
        noise = self.settings.exploration
        return sde_mean(step.before, v, step.t, step.dt, noise.a, noise.tau)

    def _weights(self, t: Array, dt: Array) -> tuple[Array, Array]:
        if self.settings.weighting == Weighting.NONE:
            return jnp.ones_like(t), jnp.ones_like(t)
        return loss_weights(t, dt, self.settings.exploration.a, self.settings.exploration.tau)


def guided_text(trees: Trees, text: TextStates) -> TextStates:
    """The prompts' text (B, L, D), each row behind the negative prompt: (2 B, L, D)."""
    negative = prompt(trees, NEGATIVE, text)
    return with_negative(jax.tree.map(lambda x: jnp.broadcast_to(x, (len(text.mask), *x.shape[1:])), negative), text)


def loss_weights(t: Array, dt: Array, a: float = 1.0, tau: float = TAU) -> tuple[Array, Array]:
    """Of the policy term, s / sqrt(dt), and of the divergence, s^2 / dt; t, dt and the results () or (B,), float32.

    Where s is not clipped and a = 1 they are 1 / kappa and 1 / kappa^2 of the report, kappa = sqrt(dt (1 - t) / t);
    where it is, tau / dt and tau^2 / dt^2, finite at t = 1.
    """
    policy = sde_sigma(t, dt, a, tau) / jnp.sqrt(jnp.asarray(dt, F32))
    return policy, jnp.square(policy)


def log_ratio(after: Array, mean: Array, old: Array, std: Array) -> Array:
    """log N(after; mean, std) - log N(after; old, std), the mean over each sample's numbers, (B,): exactly 0 where the
    means are equal. after, mean, old: (B, ...). std broadcasts against them."""
    return _each((mean - old) * (after - (mean + old) / 2) / jnp.square(std))


def gaussian_kl(mean: Array, reference: Array, std: Array) -> Array:
    """Divergence of two Gaussians of the same std, |mean - reference|^2 / (2 std^2), the mean over each sample's
    numbers, (B,)."""
    return _each(jnp.square((mean - reference) / std) / 2)


def advantages(rewards: Any, weights: Sequence[float] | np.ndarray, scale: Scale | str = Scale.LARGEST) -> np.ndarray:
    """How much better than its group each video is, (P, G) float32: the weighted sum over K rewards.

    rewards: (K, P, G), of P groups of G videos, all that take part in the step, of every device and process. weights:
    (K,). Of each reward a group's mean is taken off, and the rest divided by the largest standard deviation
    (population) that it has in any group: a group whose videos hardly differ gets little, instead of noise blown up.
    Where that is 0, so are the differences. A group that is not `complete` gets 0 and counts in no maximum.

    Raises InputError for shapes that do not fit, groups of one, and what `check_weights` refuses.
    """
    rewards, weights = np.asarray(rewards, np.float64), np.asarray(weights, np.float64)
    if rewards.ndim != 3 or weights.shape != rewards.shape[:1]:
        raise InputError(f"rewards {rewards.shape} with weights {weights.shape}: expected (K, P, G) and (K,)")
    if rewards.shape[2] < 2:
        raise InputError(f"groups of {rewards.shape[2]}: expected at least 2 videos, to be compared with one another")
    check_weights(weights)
    kept, asked = complete(rewards, weights), weights > 0
    rewards, weights = rewards[asked], weights[asked]
    # From a group's first video, so that equal rewards give 0 to the last bit, whatever their mean is rounded to.
    apart = np.where(kept[:, None], rewards, 0) - np.where(kept, rewards[:, :, 0], 0)[:, :, None]
    apart -= apart.mean(axis=2, keepdims=True)
    spread = np.sqrt(np.square(apart).mean(axis=2, keepdims=True))
    if scale == Scale.LARGEST:
        spread = spread.max(axis=1, keepdims=True, initial=0)
    relative = np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0)
    return np.einsum("kpg,k->pg", relative, weights).astype(np.float32)


def complete(rewards: np.ndarray, weights: Sequence[float] | np.ndarray) -> np.ndarray:
    """Which of the P groups can be learned from, (P,) bool: those of which each video has every reward of (K, P, G)
    that has a weight; one that failed is not a finite number."""
    return np.isfinite(np.asarray(rewards)[np.asarray(weights) > 0]).all(axis=(0, 2))


def check_weights(weights: Sequence[float] | np.ndarray) -> None:
    """Raises InputError unless the weights of rewards are numbers from 0, and one of them is more."""
    weights = np.asarray(weights, np.float64)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
        raise InputError(
            f"weights of rewards {weights.tolist()}: their sum is {weights.sum():g}; expected numbers from 0 with a "
            "sum above 0, or nothing would be learned"
        )


def _each(x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim)))


def _over(kept: Array, values: Array) -> Average:
    return Average((kept * values).sum(), kept.sum())
