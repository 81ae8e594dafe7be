"""What an autoencoder of videos is trained for: pixels that come back, through latents that stay near a Gaussian.

The report takes the published autoencoder as it is; this objective is ours, for the toy world's and for one's own.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from lcv_jax.errors import InputError
from lcv_jax.models.vae import WanVAE
from lcv_jax.objectives.objective import Average, Metrics, Trees

Array = jax.Array
_MIDDLE = 127.5  # of 8-bit pixels


@functools.partial(jax.tree_util.register_dataclass, data_fields=["frames"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Frames:
    """B clips of one size. frames: (B, F, H, W, 3) uint8, F = 4n + 1."""

    frames: Array


@dataclasses.dataclass(frozen=True)
class Weights:
    """Of the parts of the loss. absolute, squared: of the pixels' mean error and mean squared error, pixels being in
    [-1, 1]. divergence: of the posterior's from the normal distribution, in nats, the mean over latent numbers."""

    absolute: float = 1.0
    squared: float = 1.0
    divergence: float = 1e-4

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not 0 <= getattr(self, field.name) < float("inf"):
                raise InputError(f"weights, {field.name}={getattr(self, field.name)!r}: expected a number from 0")
        if not self.absolute + self.squared > 0:
            raise InputError("weights, absolute=0 and squared=0: expected one of them above 0")


@dataclasses.dataclass(frozen=True)
class Autoencode:
    """The objective as a value. model: with float32 parameters."""

    model: WanVAE
    weights: Weights = Weights()

    def __call__(self, trees: Trees, batch: Frames, keys: Array) -> tuple[Array, Metrics]:
        """See `objective.Objective`. Reads trees.params.

        Metrics: "loss"; "psnr" in dB, of each clip's clamped reconstruction, the mean over clips; "divergence" in nats.
        """
        video = batch.frames.astype(jnp.float32) / _MIDDLE - 1
        variables = {"params": trees.params}
        posterior = self.model.apply(variables, video, method="encode")
        noise = jax.vmap(lambda key: jax.random.normal(key, posterior.mean.shape[1:], jnp.float32))(keys)
        z = posterior.mean + jnp.exp(0.5 * posterior.logvar) * noise
        pixels = self.model.apply(variables, z, method="decode_unclamped").astype(jnp.float32)
        w, error = self.weights, pixels - video
        divergence = divergence_from_normal(posterior.mean, posterior.logvar)
        loss = w.absolute * _mean(jnp.abs(error)) + w.squared * _mean(jnp.square(error)) + w.divergence * divergence
        return loss.mean(), {
            "loss": Average.of(loss),
            "psnr": Average.of(psnr(jnp.clip(pixels, -1, 1), video)),
            "divergence": Average.of(divergence),
        }


def psnr(pixels: Array, video: Array) -> Array:
    """Peak signal-to-noise ratio of each of B clips in [-1, 1], (B,), in dB."""
    return -10 * jnp.log10(jnp.maximum(_mean(jnp.square(pixels - video)) / 4, 1e-10))


def divergence_from_normal(mean: Array, logvar: Array) -> Array:
    """Kullback-Leibler divergence of N(mean, exp(logvar)) from N(0, 1), the mean over each sample's numbers, (B,)."""
    return 0.5 * _mean(jnp.square(mean) + jnp.exp(logvar) - 1 - logvar)


def _mean(x: Array) -> Array:
    return x.mean(axis=tuple(range(1, x.ndim)))
