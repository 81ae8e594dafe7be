"""Which blocks every layer of the DiT selects, against the official selections (goldens README 3, dit_bsa)."""

import jax
import pytest

from dit_goldens import inputs, part, read_config, read_params
from lcv_jax.models.dit import DiT
from lcv_jax.models.precision import FLOAT32
from selections import NotingAttention, assert_selected

CUBE = (4, 4, 4)


@pytest.fixture(scope="module")
def config(checkpoint_dir):
    return read_config(checkpoint_dir)


@pytest.fixture(scope="module")
def params(checkpoint_dir, config):
    return read_params(checkpoint_dir, config)


@pytest.fixture
def noting(config):
    return NotingAttention(CUBE, CUBE, config.bsa_params.sparsity)


def official(golden, calls):
    return [golden[f"select_{call}"] for call in calls]


def test_text_to_video(goldens, config, params, noting):
    g = part(goldens("dit_bsa"), "t2v_")
    jax.jit(lambda *a: DiT(config, FLOAT32, noting).apply({"params": params}, *a))(*inputs(g))
    assert_selected(noting, official(g, range(3)))


def test_continuation_with_and_without_cache(goldens, config, params, noting):
    g = part(goldens("dit_bsa"), "vc_")
    latents, t, text, mask = inputs(g)
    n, dit = int(g["num_cond_latents"]), DiT(config, FLOAT32, noting)
    jax.jit(lambda *a: dit.apply({"params": params}, *a, num_cond=n))(latents, t, text, mask)
    assert_selected(noting, official(g, range(6)), cond_frames=n)
    found = jax.jit(lambda z: dit.apply({"params": params}, z, method="condition"))(latents[:, :n])
    assert_selected(noting, official(g, range(6, 9)))
    cached = jax.jit(lambda *a: dit.apply({"params": params}, *a[:-1], cache=a[-1]))
    cached(latents[:, n:], t[:, n:], text, mask, found.cache)
    assert_selected(noting, official(g, range(9, 12)))
