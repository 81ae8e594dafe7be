"""Streams and tiles of the autoencoder against whole videos."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.errors import InputError
from lcv_jax.models import vae_coding
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.vae import VAEConfig, WanVAE
from lcv_jax.models.vae_coding import Tiling, VAECoder, blend, spread

DEEP = VAEConfig(4, 2, (1, 1, 2), 1, (True, True), (0.0, 0.0), (1.0, 1.0))
SHALLOW = VAEConfig(4, 2, (1, 2), 1, (True,), (0.0, 0.0), (1.0, 1.0))
LATENTS = 4


def random_params(config):
    video = jax.ShapeDtypeStruct((1, 1, 16, 16, 3), jnp.float32)
    shapes = jax.eval_shape(WanVAE(config, FLOAT32).init, jax.random.key(0), video)["params"]
    rng = np.random.default_rng(0)

    def leaf(shape):
        fan_in = math.prod(shape.shape[:-1]) if len(shape.shape) > 1 else 4
        return jnp.asarray(rng.standard_normal(shape.shape) / fan_in**0.5, jnp.float32)

    return jax.tree.map(leaf, shapes)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def deep():
    """Parameters, a video with its posterior, latents with their video."""
    params, coder = random_params(DEEP), VAECoder(DEEP, FLOAT32)
    video, z = np.tanh(normal(0, 2, 4 * LATENTS - 3, 8, 8, 3)), normal(1, 2, LATENTS, 2, 2, 2)
    return params, (video, coder.encode(params, video)), (z, coder.decode(params, z))


@pytest.fixture(scope="module")
def shallow():
    return random_params(SHALLOW)


def cut(array, cuts):
    return np.split(array, sorted(cuts), axis=1)


@settings(max_examples=12, deadline=None)
@given(chunk=st.sampled_from([1, 3]), cuts=st.sets(st.integers(1, 12)), device=st.sampled_from([np, jnp]))
def test_streamed_encoding_equals_the_whole(deep, chunk, cuts, device):
    params, (video, whole), _ = deep
    pieces = (device.asarray(piece) for piece in cut(video, cuts))
    posteriors = list(VAECoder(DEEP, FLOAT32, chunk=chunk).encode_stream(params, pieces))
    assert [p.mean.shape[1] for p in posteriors] == ([1] * 4 if chunk == 1 else [3, 1])
    np.testing.assert_allclose(np.concatenate([p.mean for p in posteriors], 1), whole.mean, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([p.logvar for p in posteriors], 1), whole.logvar, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(chunk=st.sampled_from([1, 3]), cuts=st.sets(st.integers(1, LATENTS - 1)))
def test_streamed_decoding_equals_the_whole(deep, chunk, cuts):
    params, _, (z, whole) = deep
    pieces = list(VAECoder(DEEP, FLOAT32, chunk=chunk).decode_stream(params, cut(z, cuts)))
    assert [p.shape[1] for p in pieces] == ([1, 4, 4, 4] if chunk == 1 else [9, 4])
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, atol=1e-5)


def test_a_stream_compiles_at_most_three_shapes(shallow):
    compiled = [vae_coding._step._cache_size()]
    for tiling in (None, Tiling(8, 0)):  # one tile needs no program of its own
        coder = VAECoder(SHALLOW, FLOAT32, tiling, chunk=2)
        frames = [piece.shape[1] for piece in coder.decode_stream(shallow, [normal(0, 2, 7, 2, 2, 2)])]
        assert frames == [3, 4, 4, 2]
        compiled.append(vae_coding._step._cache_size())
    assert np.diff(compiled).tolist() == [3, 0]


def test_a_stream_takes_no_more_than_it_needs_and_never_ends_by_itself(shallow):
    taken = []

    def endless():
        for i in itertools.count():
            taken.append(i)
            yield normal(i, 1, 1, 2, 2, 2)

    stream = VAECoder(SHALLOW, FLOAT32, chunk=2).decode_stream(shallow, endless())
    for step in range(1, 4):
        next(stream)
        assert len(taken) == 2 * step


def test_a_tile_as_large_as_the_picture_changes_nothing(shallow):
    z = normal(1, 1, 1, 4, 3, 2)
    plain, tiled = VAECoder(SHALLOW, FLOAT32), VAECoder(SHALLOW, FLOAT32, Tiling(8, 2))
    np.testing.assert_array_equal(plain.decode(shallow, z), tiled.decode(shallow, z))


@pytest.mark.parametrize("method", ["encode", "decode"])
def test_tiles_differ_near_their_edges_only_and_little_where_they_overlap(shallow, method):
    side = 64  # 32 latents
    x = np.tanh(normal(0, 1, 1, side, side, 3)) if method == "encode" else normal(1, 1, 1, 32, 32, 2)

    def run(tiling):
        y = getattr(VAECoder(SHALLOW, FLOAT32, tiling), method)(shallow, x)
        return np.asarray(y if method == "decode" else y.mean)

    whole = run(None)
    butted, overlapping = (np.abs(run(tiling) - whole) for tiling in (Tiling(32, 0), Tiling(48, 32)))
    assert butted.max() > 3 * overlapping.max() > 0
    if method == "decode":  # its tiled half is the last: beyond the convolutions' reach nothing changes
        np.testing.assert_allclose(butted[:, :, :18, :18], 0, atol=1e-6)
        assert overlapping.mean() < 0.01 * whole.std()


@pytest.mark.parametrize("method", [pytest.param("encode", marks=pytest.mark.slow), "decode"])
def test_streamed_tiles_equal_whole_tiles(shallow, method):
    whole, stream = (VAECoder(SHALLOW, FLOAT32, Tiling(16, 4), chunk) for chunk in (1, 2))
    if method == "encode":
        video = np.tanh(normal(0, 1, 7, 24, 12, 3))
        pieces = [p.mean for p in stream.encode_stream(shallow, [video])]
        expected = whole.encode(shallow, video).mean
    else:
        z = normal(1, 1, 4, 12, 6, 2)
        pieces, expected = list(stream.decode_stream(shallow, [z])), whole.decode(shallow, z)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), expected, atol=1e-5)


def test_coding_runs_inside_jit_and_returns_float32_from_bfloat16(shallow):
    coder = VAECoder(SHALLOW, BFLOAT16, Tiling(8, 4))
    narrow = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16), shallow)
    y = jax.eval_shape(jax.jit(coder.decode), narrow, jnp.zeros((1, 2, 8, 8, 2)))
    assert (y.shape, y.dtype) == ((1, 3, 16, 16, 3), jnp.float32)
    posterior = jax.eval_shape(jax.jit(coder.encode), narrow, jnp.zeros((1, 3, 16, 16, 3)))
    assert (posterior.mean.shape, posterior.logvar.dtype) == ((1, 2, 8, 8, 2), jnp.float32)


def test_tiles_by_hand():
    assert spread(4, 1, 4) == [0]
    assert spread(4, 1, 7) == [0, 3]
    assert spread(4, 2, 9) == [0, 1, 3, 5]
    first, second = blend([0, 4], 6)
    np.testing.assert_allclose(first, [1, 1, 1, 1, 0.75, 0.25])
    np.testing.assert_allclose(second, [0.25, 0.75, 1, 1, 1, 1])


@given(st.integers(1, 40), st.integers(0, 39), st.integers(1, 200))
def test_tiles_cover_everything_once(size, overlap, extent):
    size = min(size, extent)
    starts = spread(size, min(overlap, size - 1), extent)
    assert starts[0] == 0
    assert starts[-1] == extent - size
    assert all(0 < b - a <= size - min(overlap, size - 1) for a, b in itertools.pairwise(starts))
    total = np.zeros(extent)
    for start, share in zip(starts, blend(starts, size), strict=True):
        total[start : start + size] += share
    np.testing.assert_allclose(total, 1, rtol=1e-6)


def test_what_cannot_be_coded_is_refused(shallow):
    coder = VAECoder(SHALLOW, FLOAT32)
    with pytest.raises(InputError, match=r"tiling Tiling\(size=8, overlap=8\): expected 0 <= overlap < size"):
        Tiling(8, 8)
    with pytest.raises(InputError, match="expected multiples of 2 pixels"):
        VAECoder(SHALLOW, FLOAT32, Tiling(9, 2))
    with pytest.raises(InputError, match="steps of 0 latent frames: expected at least 1"):
        VAECoder(SHALLOW, FLOAT32, chunk=0)
    with pytest.raises(InputError, match="stream of chunks is empty"):
        list(coder.decode_stream(shallow, []))
    with pytest.raises(InputError, match="expected five axes"):
        list(coder.decode_stream(shallow, [np.zeros((2, 2, 2))]))
    with pytest.raises(InputError, match="latents of shape"):
        list(coder.decode_stream(shallow, [np.zeros((1, 1, 2, 2, 3))]))
    with pytest.raises(InputError, match="video of 3 x 4 pixels: expected multiples of 2"):
        coder.encode(shallow, np.zeros((1, 3, 3, 4, 3)))


def test_a_stream_ends_at_a_complete_group(shallow):
    coder = VAECoder(SHALLOW, FLOAT32, chunk=2)
    with pytest.raises(InputError, match=r"a video of 6 frames cannot be encoded.* counts are 5 and 7"):
        list(coder.encode_stream(shallow, [np.zeros((1, 6, 4, 4, 3), np.float32)]))
    frames = np.zeros((1, 1, 4, 4, 3), np.float32), np.zeros((1, 1, 4, 6, 3), np.float32)
    with pytest.raises(InputError, match=r"chunk of shape \(1, 1, 4, 6, 3\) follows one of .* only axis 1"):
        list(coder.encode_stream(shallow, frames))
