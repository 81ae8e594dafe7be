"""The autoencoder: goldens, causality, its config, bf16 mode, gradients."""

import dataclasses
import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import traces
from lcv_jax.checkpoint.load import flatten, load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import VAE
from lcv_jax.errors import InputError
from lcv_jax.models import vae_layers
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.vae import Posterior, WanVAE, denormalize, normalize
from lcv_jax.models.vae_config import VAEConfig

# f9 and f17 have one size: f9 rides along in f17's batch, followed by zeros that a causal model does not see.
CLIPS = (("f1",), ("f5",), ("f8",), ("f13",), ("f17", "f9"))
TINY = VAEConfig(4, 2, (1, 2, 2), 1, (True, True), (0.5, -1.0), (2.0, 0.25))
TINIEST = VAEConfig(2, 2, (1, 2), 1, (True,), (0.0, 0.0), (1.0, 1.0))
SIDE = 8


def abstract(config, precision=FLOAT32):
    model = WanVAE(config, precision)
    video = jax.ShapeDtypeStruct((1, 1, 16, 16, config.in_channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), video)["params"]


def count(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def published(checkpoint_dir):
    return json.loads((checkpoint_dir / "vae" / "config.json").read_text())


@pytest.fixture(scope="module")
def config(published):
    return VAEConfig.from_json(published)


@pytest.fixture(scope="module")
def params(checkpoint_dir, config):
    return load_params(SafetensorsSource(checkpoint_dir / "vae"), VAE, abstract(config))


def random_params(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(0.3 * rng.standard_normal(s.shape), jnp.float32), abstract(config))


@pytest.fixture(scope="module")
def tiny_params():
    return random_params(TINY)


@functools.cache
def runner(config, precision, method):
    """A compiled whole-sequence `encode` or `decode`."""
    return jax.jit(lambda params, x: WanVAE(config, precision).apply({"params": params}, x, method=method))


def last(array):
    """Official (B, C, F, H, W) -> ours."""
    return np.moveaxis(array, 1, -1)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def batch(arrays):
    """Arrays of equal size, the longest first, as one batch; shorter ones are followed by zeros."""
    frames = arrays[0].shape[1]
    padded = [np.pad(a, ((0, 0), (0, frames - a.shape[1]), (0, 0), (0, 0), (0, 0))) for a in arrays]
    return np.concatenate(padded)


@pytest.mark.parametrize("clips", CLIPS)
def test_posterior_equals_the_official_one(goldens, config, params, clips):
    golden = {name: last(array) for name, array in goldens("vae").items()}
    latents = golden[f"{clips[0]}_enc_mean"].shape[1]
    # The official code drops incomplete groups.
    videos = batch([golden[f"{clip}_video"][:, : 4 * latents - 3] for clip in clips])
    posterior = runner(config, FLOAT32, "encode")(params, videos)
    for i, clip in enumerate(clips):
        mean = golden[f"{clip}_enc_mean"]
        ours = jax.tree.map(lambda a, i=i, length=mean.shape[1]: a[i : i + 1, :length], posterior)
        np.testing.assert_allclose(ours.mean, mean, atol=1e-4, rtol=0)
        np.testing.assert_allclose(ours.logvar, golden[f"{clip}_enc_logvar"], atol=1e-4, rtol=0)
        normalized = golden[f"{clip}_enc_mean_normalized"]
        np.testing.assert_allclose(normalize(config, ours.mode()), normalized, atol=1e-4, rtol=0)


@pytest.mark.parametrize("clips", CLIPS)
def test_decoded_video_equals_the_official_one(goldens, config, params, clips):
    golden = {name: last(array) for name, array in goldens("vae").items()}
    latents = [denormalize(config, jnp.asarray(golden[f"{clip}_latent"])) for clip in clips]
    for clip, z in zip(clips, latents, strict=True):
        np.testing.assert_allclose(z, golden[f"{clip}_latent_denormalized"], atol=1e-5, rtol=0)
    videos = np.asarray(runner(config, FLOAT32, "decode")(params, batch(latents)))
    assert videos.dtype == np.float32
    assert np.abs(videos).max() <= 1
    for i, clip in enumerate(clips):
        decoded = golden[f"{clip}_decoded"]
        np.testing.assert_allclose(videos[i : i + 1, : decoded.shape[1]], decoded, atol=1e-4, rtol=0)


def test_normalization_by_hand():
    z = jnp.asarray([[4.5, -0.5]])
    np.testing.assert_allclose(normalize(TINY, z), [[2.0, 2.0]])
    np.testing.assert_allclose(denormalize(TINY, jnp.asarray([[2.0, 2.0]])), z)
    assert normalize(TINY, z.astype(jnp.bfloat16)).dtype == jnp.float32


def test_parameter_counts(config, checkpoint_dir):
    tensors = SafetensorsSource(checkpoint_dir / "vae").tensors
    assert count(abstract(config)) == sum(math.prod(t.shape) for t in tensors.values())
    published_width = dataclasses.replace(config, base_dim=96)
    assert count(abstract(published_width)) == 126_892_531
    assert abstract(published_width)["encoder"]["conv_in"]["kernel"].shape == (3, 3, 3, 3, 96)


def test_all_parameters_appear_whatever_the_length_of_the_video():
    shapes = [
        jax.eval_shape(WanVAE(TINY, FLOAT32).init, jax.random.key(0), jnp.zeros((1, f, SIDE, SIDE, 3))) for f in (1, 9)
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    assert list(shapes[0]) == ["params"]


def test_later_frames_change_no_earlier_latent(tiny_params):
    video = np.tanh(normal(0, 1, 9, SIDE, SIDE, 3))
    encode = runner(TINY, FLOAT32, "encode")
    changed = encode(tiny_params, np.concatenate([video[:, :5], -video[:, 5:]], axis=1))
    difference = jax.tree.map(lambda a, b: np.abs(a - b).max(axis=(0, 2, 3, 4)), changed, encode(tiny_params, video))
    for part in (difference.mean, difference.logvar):
        assert (part[:2] == 0).all()
        assert part[2] > 1e-3


def test_a_latent_changes_its_own_frames_and_later_ones_only(tiny_params):
    z = normal(1, 1, 3, 2, 2, 2)
    decode = runner(TINY, FLOAT32, "decode")
    changed = decode(tiny_params, np.concatenate([z[:, :1], -z[:, 1:2], z[:, 2:]], axis=1))
    difference = np.abs(changed - decode(tiny_params, z)).max(axis=(0, 2, 3, 4))
    assert (difference[:1] == 0).all()
    assert (difference[1:] > 1e-3).all()


def test_gradients_through_the_whole_are_finite_and_reach_every_parameter():
    video = 0.5 * np.tanh(normal(0, 1, 3, 4, 4, 3))
    model = WanVAE(TINIEST, FLOAT32)

    def loss(params):
        posterior = model.apply({"params": params}, video, method="encode")
        z = posterior.sample(jax.random.key(0))
        decoded = model.apply({"params": params}, 0.1 * z, method="decode")
        return jnp.mean((decoded - video) ** 2) + 1e-3 * jnp.mean(posterior.logvar**2)

    gradients = flatten(jax.device_get(jax.jit(jax.grad(loss))(random_params(TINIEST))))
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path
        assert np.any(gradient), path


def test_posterior_sample_has_the_stated_moments():
    shape = (1, 1, 100, 100, 2)
    posterior = Posterior(jnp.full(shape, 3.0), jnp.full(shape, 2 * math.log(0.5)))
    sample = posterior.sample(jax.random.key(0))
    assert abs(sample.mean() - 3) < 0.02
    assert abs(sample.std() - 0.5) < 0.02
    np.testing.assert_array_equal(sample, posterior.sample(jax.random.key(0)))
    assert (posterior.mode() == 3).all()


def test_log_variance_is_clamped(tiny_params):
    bias = jnp.asarray([0.0, 0.0, 1e3, -1e3])
    params = tiny_params | {"quant_conv": tiny_params["quant_conv"] | {"bias": bias}}
    posterior = runner(TINY, FLOAT32, "encode")(params, jnp.zeros((1, 9, SIDE, SIDE, 3)))
    np.testing.assert_array_equal(posterior.logvar[..., 0], 20)
    np.testing.assert_array_equal(posterior.logvar[..., 1], -30)


def test_norm_by_hand_and_of_zeros():
    norm = vae_layers.RMSNorm(FLOAT32)
    gamma = {"params": {"gamma": jnp.asarray([1.0, 2.0])}}
    y = norm.apply(gamma, jnp.asarray([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(y, np.sqrt(2) * np.asarray([[0.6, 1.6], [0, 0]]), rtol=1e-6)


@pytest.mark.parametrize("most_scores", [10_000, 2 * 12 * 12, 30, 1])
def test_attention_in_pieces_equals_attention_at_once(most_scores):
    q, k, v = (jnp.asarray(normal(i, 5, 12, 4)) for i in range(3))
    y = vae_layers.attend(q, k, v, most_scores)
    weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / 2, axis=-1)
    np.testing.assert_allclose(y, weights @ v, atol=1e-5)


def test_bfloat16_stays_close_to_float32(goldens, config, params):
    golden = goldens("vae")
    narrow = jax.tree.map(lambda p: np.asarray(p).astype(jnp.bfloat16), params)
    pairs = {"encode": last(golden["f5_video"]), "decode": last(golden["f5_latent_denormalized"])}
    reference = {"encode": last(golden["f5_enc_mean"]), "decode": last(golden["f5_decoded"])}
    for method, x in pairs.items():
        y = runner(config, BFLOAT16, method)(narrow, x)
        y = y.mean if method == "encode" else y
        assert y.dtype == jnp.float32
        error = np.abs(y - reference[method]).mean() / reference[method].std()
        assert error < 0.02, method


def test_float32_islands_in_bfloat16_mode():
    model = WanVAE(TINY, BFLOAT16)
    shapes = abstract(TINY, BFLOAT16)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("bfloat16")}
    jaxpr = jax.make_jaxpr(lambda p, x: model.apply({"params": p}, x))(shapes, jnp.zeros((1, 5, SIDE, SIDE, 3)))
    found = traces.operand_dtypes(jaxpr)
    for island in ("rsqrt", "reduce_sum", "exp"):  # norms' statistics and the softmax
        assert found[island] == {"float32"}, island
    assert found["logistic"] == {"bfloat16"}
    assert "bfloat16" in found["conv_general_dilated"]


def test_float32_products_are_exact_on_every_backend():
    def products(precision, method, x):
        run = functools.partial(WanVAE(TINY, precision).apply, method=method)
        return traces.precisions(jax.make_jaxpr(run)({"params": abstract(TINY, precision)}, x))

    halves = {
        "encode_fine": (1, 5, SIDE, SIDE, 3),
        "encode_coarse": (1, 2, 2, 2, 8),
        "decode_coarse": (1, 2, 2, 2, 2),
        "decode_fine": (1, 2, 2, 2, 8),
    }
    for method, shape in halves.items():
        exact, fast = (products(precision, method, jnp.zeros(shape)) for precision in (FLOAT32, BFLOAT16))
        assert exact == {"dot_general": {traces.EXACT}, "conv_general_dilated": {traces.EXACT}}, method
        assert not any(traces.EXACT in found for found in fast.values()), method


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        ("encode", (1, 5, 8, 8, 4), r"video of shape \(1, 5, 8, 8, 4\): expected \(B, frames, height, width, 3\)"),
        ("encode", (5, 8, 8, 3), "video of shape"),
        ("encode", (1, 5, 8, 0, 3), "none of them 0"),
        ("encode", (1, 5, 8, 6, 3), "video of 8 x 6 pixels: expected multiples of 4"),
        ("encode", (1, 8, 8, 8, 3), r"8 frames cannot be encoded: expected 4n \+ 1 .* counts are 5 and 9"),
        ("encode", (1, 2, 8, 8, 3), "nearest counts are 1 and 5"),
        ("decode", (1, 2, 2, 2, 3), r"latents of shape .* expected \(B, frames, height, width, 2\)"),
        ("decode", (1, 0, 2, 2, 2), "none of them 0"),
    ],
)
def test_impossible_shapes_are_refused(tiny_params, method, shape, message):
    with pytest.raises(InputError, match=message):
        WanVAE(TINY, FLOAT32).apply({"params": tiny_params}, jnp.zeros(shape), method=method)


def test_a_later_chunk_has_complete_groups():
    model, shapes = WanVAE(TINY, FLOAT32), abstract(TINY)

    def two_chunks(params, first, second):
        _, state = model.apply({"params": params}, first, method="encode", mutable=["stream"])
        return model.apply({"params": params, **state}, second, method="encode")

    with pytest.raises(InputError, match=r"later chunk of 5 frames .* expected a multiple of 4"):
        jax.eval_shape(two_chunks, shapes, jnp.zeros((1, 1, 4, 4, 3)), jnp.zeros((1, 5, 4, 4, 3)))
