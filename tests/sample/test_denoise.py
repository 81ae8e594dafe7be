"""The loop: one compilation a run, whatever the task."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.models.dit import KVCache
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample.denoise import Conditioning, denoise, sample_step

NOISE = np.random.default_rng(0).normal(size=(2, 3, 4, 4, 16)).astype(np.float32)


def text(rows):
    return TextStates(jnp.ones((rows, 4, 64)), jnp.ones((rows, 4), bool))


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_a_run_compiles_its_step_once(pipe, guided, cached):
    keys = jnp.ones((3, 1, 1, 4, 4, 32))
    conditioning = Conditioning(
        latents=jnp.asarray(NOISE),
        text=text(2),
        sigmas=np.array([1, 0.7, 0.4, 0], np.float32),
        num_cond=1 if cached else 0,
        cache=KVCache(keys, keys, 1) if cached else None,
        negative=text(2) if guided else None,
        guidance=4.0,
    )
    sample_step.clear_cache()
    seen = []
    out = denoise(pipe.dit, pipe.variables(), conditioning, lambda step: seen.append(step.index))
    assert sample_step._cache_size() == 1
    assert seen == [0, 1, 2]
    assert out.shape == NOISE.shape
    if cached:
        np.testing.assert_array_equal(out[:, :1], NOISE[:, :1])


def test_a_cache_is_repeated_layer_by_layer(pipe):
    """A guided step reads a cache of the prompts' rows without a doubled copy of all its layers."""
    keys = jax.ShapeDtypeStruct((3, 2, 4, 64, 4, 32), jnp.float32)
    args = {
        "latents": jax.ShapeDtypeStruct((2, 1, 16, 16, 16), jnp.float32),
        "t": jax.ShapeDtypeStruct((), jnp.float32),
        "t_next": jax.ShapeDtypeStruct((), jnp.float32),
        "text": TextStates(jax.ShapeDtypeStruct((4, 4, 64), jnp.float32), jax.ShapeDtypeStruct((4, 4), jnp.bool_)),
        "guidance": jax.ShapeDtypeStruct((), jnp.float32),
    }
    jaxpr = jax.make_jaxpr(
        lambda variables, cache: sample_step.__wrapped__(pipe.dit, variables, cache=cache, **_zeros(args))
    )(pipe.variables(), KVCache(keys, keys, 4))
    top = [eqn.outvars[0].aval.shape for eqn in jaxpr.jaxpr.eqns if eqn.outvars]
    assert (3, 4, 4 * 64, 4, 32) not in top


def _zeros(tree):
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
