"""A velocity network whose numbers can be had by hand, in place of the DiT, for the tests of distillation."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.matching import Batch

WIDTH = 2


@dataclasses.dataclass(frozen=True)
class Linear:
    """v = (w + up of all adapters) x + t bend + the mean of the text's states. What it says of condition frames is not
    a number, so that nobody may look at it."""

    bend: float = 0.0

    def apply(self, variables, x, t, states, mask, *, num_cond=0):
        adapters = variables.get("lora", {}).get("layer", {}).get("adapters", {})
        w = variables["params"]["w"] + sum(one["up"] for one in adapters.values())
        kept = mask[..., None]
        text = (states * kept).sum((1, 2)) / (kept.sum((1, 2)) * states.shape[2])
        v = w * x + self.bend * t[:, :, None, None, None] + text[:, None, None, None, None]
        assert (t.shape, len(states)) == (x.shape[:2], len(x))
        return jnp.where((jnp.arange(x.shape[1]) < num_cond)[:, None, None, None], jnp.nan, v)


def adapter(up):
    """Active adapters by name, as a run trains them."""
    return {"trained": {"layer": {"down": jnp.zeros(1), "up": jnp.float32(up), "scale": jnp.ones(())}}}


def batch(num_cond=0, size=4, seed=0) -> Batch:
    """Of three frames of 1 x 2, text of three tokens, the first of them real in the first row."""
    rng = np.random.default_rng(seed)
    latents, states = rng.normal(size=(size, 3, 1, 2, WIDTH)), rng.normal(size=(size, 3, WIDTH))
    mask = np.arange(3) < 1 + np.arange(size)[:, None] % 3
    return Batch(latents.astype(np.float32), TextStates(states.astype(np.float32), mask), num_cond)


def text_mean(text: TextStates) -> np.ndarray:
    """What the network adds of it, (B, 1, 1, 1, 1)."""
    means = [np.mean(np.asarray(states)[np.asarray(kept)]) for states, kept in zip(text.states, text.mask, strict=True)]
    return np.asarray(means)[:, None, None, None, None]


def noisy(batch: Batch, noise, t) -> np.ndarray:
    """Latents at t (B,), condition frames clean, in double precision."""
    at = np.asarray(t, np.float64)[:, None, None, None, None]
    x = (1 - at) * batch.latents + at * np.asarray(noise)
    x[:, : batch.num_cond] = batch.latents[:, : batch.num_cond]
    return x
