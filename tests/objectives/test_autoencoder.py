"""The autoencoder's loss by hand on a model of a line, and on the real one what the line cannot show."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.vae import Posterior, WanVAE
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.objectives.autoencoder import Autoencode, Frames, Weights, divergence_from_normal, psnr
from lcv_jax.objectives.objective import Trees

CONFIG = VAEConfig(
    base_dim=4,
    z_dim=2,
    dim_mult=(1, 1),
    num_res_blocks=1,
    temporal_downsample=(False,),
    latents_mean=(0.0,) * 2,
    latents_std=(1.0,) * 2,
)
PLAIN = Weights()
KEYS = jax.random.split(jax.random.key(3), 4)


@dataclasses.dataclass(frozen=True)
class Line:
    """Encodes pixels as they are, with deviations exp(logvar / 2), and decodes `gain` times the latents."""

    def apply(self, variables, x, method):
        params = variables["params"]
        if method == "encode":
            return Posterior(x, jnp.full(x.shape, params["logvar"]))
        assert method == "decode_unclamped"
        return params["gain"] * x


def line(gain: float, logvar: float, frames: np.ndarray, weights: Weights = PLAIN):
    trees = Trees({"gain": jnp.float32(gain), "logvar": jnp.float32(logvar)})
    return Autoencode(Line(), weights)(trees, Frames(jnp.asarray(frames)), KEYS[: len(frames)])


def frames(seed: int = 0, size: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, 1, 2, 2, 3), np.uint8)


@pytest.mark.smoke
def test_the_loss_by_hand():
    """One clip is all 255, that is 1, the other all 0, that is -1; the decoder gives half, with hardly any noise."""
    clips = np.stack([np.full((1, 2, 2, 3), value, np.uint8) for value in (255, 0)])
    loss, metrics = line(0.5, -20.0, clips, Weights(absolute=2.0, squared=3.0, divergence=0.1))
    divergence = 0.5 * (1 + math.exp(-20) - 1 + 20)
    np.testing.assert_allclose(loss, 2 * 0.5 + 3 * 0.25 + 0.1 * divergence, rtol=1e-4)
    np.testing.assert_allclose(metrics["loss"].value, loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["divergence"].value, divergence, rtol=1e-6)
    # An error of 0.5 where numbers reach from -1 to 1: 10 log10(2^2 / 0.5^2).
    np.testing.assert_allclose(metrics["psnr"].value, 10 * math.log10(16), rtol=1e-4)
    assert metrics["psnr"].count == 2


def test_what_is_out_of_range_costs_but_does_not_count_against_the_picture():
    clips = np.full((1, 1, 2, 2, 3), 255, np.uint8)
    loss, metrics = line(3.0, -30.0, clips, Weights(1.0, 0.0, 0.0))
    np.testing.assert_allclose(loss, 2.0, rtol=1e-4)
    np.testing.assert_allclose(metrics["psnr"].value, 100, rtol=1e-4)  # clamped to 1; the error is cut off at 1e-10


def test_the_noise_of_the_posterior_is_added():
    """Deviations of 1/2 and a perfect decoder: the error is the noise."""
    clips = np.random.default_rng(0).integers(0, 256, (4, 5, 16, 16, 3), np.uint8)
    loss, _ = line(1.0, 2 * math.log(0.5), clips, Weights(0.0, 1.0, 0.0))
    np.testing.assert_allclose(loss, 0.25, rtol=0.05)


def test_psnr_is_of_each_clip():
    video = jnp.zeros((2, 1, 2, 2, 3))
    pixels = video.at[0].set(0.2).at[1, 0, 0].set(1.0)
    np.testing.assert_allclose(psnr(pixels, video), [20, 10 * math.log10(4 / 0.5)], rtol=1e-5)


def test_the_divergence_is_the_integral():
    """Against the integral of p log(p / q) by the trapezoidal rule, and 0 for the normal distribution itself."""
    x = np.linspace(-12, 12, 200_001)

    def normal(mean, variance):
        return np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    for mean, logvar in ((0.7, -1.2), (-1.5, 0.4), (0.0, 0.0)):
        p, q = normal(mean, math.exp(logvar)), normal(0.0, 1.0)
        integral = np.trapezoid(np.where(p > 0, p * np.log(np.maximum(p, 1e-300) / q), 0), x)
        ours = divergence_from_normal(jnp.full((1, 1, 1, 1, 1), mean), jnp.full((1, 1, 1, 1, 1), logvar))
        np.testing.assert_allclose(ours, [integral], atol=1e-5)


def test_a_samples_noise_does_not_depend_on_the_batch():
    clips = frames()
    trees = Trees({"gain": jnp.float32(1.0), "logvar": jnp.float32(0.0)})
    alone = [
        Autoencode(Line())(trees, Frames(jnp.asarray(clips[at : at + 1])), KEYS[at : at + 1])[0] for at in range(4)
    ]
    together, _ = line(1.0, 0.0, clips)
    np.testing.assert_allclose(together, np.mean(alone), rtol=1e-5)
    assert len({round(float(x), 4) for x in alone}) == 4


@pytest.fixture(scope="module")
def params():
    return zoo.init_params(CONFIG, FLOAT32, jax.random.key(0))


def test_a_clamped_pixel_has_a_gradient(params):
    """The last bias lifts all pixels beyond 1: the decoder as it samples gives 1 and no gradient, the one that is
    trained with gives both."""
    model, z = WanVAE(CONFIG, FLOAT32), jnp.zeros((1, 1, 2, 2, 2))
    bias = jnp.full(3, 3.0)

    def pixels(bias, method):
        conv_out = params["decoder"]["conv_out"] | {"bias": bias}
        lifted = params | {"decoder": params["decoder"] | {"conv_out": conv_out}}
        return model.apply({"params": lifted}, z, method=method)

    clamped, free = (
        jax.jit(jax.value_and_grad(lambda b, m=method: pixels(b, m).mean()))(bias)
        for method in ("decode", "decode_unclamped")
    )
    assert clamped[0] == 1
    assert not np.any(clamped[1])
    assert free[0] > 1.5
    np.testing.assert_allclose(free[1], 1 / 3, rtol=1e-5)


def test_untrained_latents_have_little_noise_and_branches_little_weight(params):
    bias = np.asarray(params["quant_conv"]["bias"])
    np.testing.assert_allclose(np.exp(0.5 * bias), [1, 1, 1 / 8, 1 / 8], rtol=1e-6)
    block = params["decoder"]["mid_block"]["resnets_0"]
    first, second = (float(np.std(block[name]["kernel"])) for name in ("conv1", "conv2"))
    assert 0.08 < second / first < 0.12


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"absolute": -1.0}, r"weights, absolute=-1.0: expected a number from 0"),
        ({"squared": float("nan")}, "squared=nan"),
        ({"divergence": float("inf")}, "divergence=inf"),
        ({"absolute": 0.0, "squared": 0.0}, "absolute=0 and squared=0: expected one of them above 0"),
    ],
)
def test_bad_weights_are_refused(given, match):
    with pytest.raises(InputError, match=match):
        Weights(**given)
