"""What rests in the host's memory: where it is, and that no number changes."""

import dataclasses

import jax
import numpy as np
import pytest

from lcv_jax import Pipeline
from lcv_jax.errors import InputError
from lcv_jax.parallel import host_memory
from lcv_jax.sample import plan, request
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options
from traces import equations

Space = jax.memory.Space
VIDEO = np.random.default_rng(0).integers(0, 255, (5, 48, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def offloading(checkpoint_dir):
    return Pipeline.from_pretrained(checkpoint_dir, "float32", offload=("text_encoder", "kv_cache"))


def kinds(tree):
    return {leaf.sharding.memory_kind for leaf in jax.tree.leaves(tree)}


@pytest.mark.smoke
def test_what_is_offloaded_rests_in_host_memory_and_the_rest_does_not(offloading):
    assert kinds(offloading.params["text_encoder"]) == {"pinned_host"}
    assert kinds(offloading.params["dit"]) == kinds(offloading.params["vae"]) == {"device"}
    cache = offloading.condition_cache(np.zeros((1, 2, 8, 16, 16), np.float32))
    assert kinds(cache) == {"pinned_host"}
    assert kinds(offloading.encode_prompt("a cat")) == {"device"}


def test_a_continuation_is_the_same_bit_for_bit(pipe, offloading):
    options = {"num_frames": 9, "num_cond_frames": 5, "size": (64, 128), "steps": 2, "output": "latents", "seed": 1}
    here, away = (p.continue_video(VIDEO, "a cat", **options) for p in (pipe, offloading))
    np.testing.assert_array_equal(here, away)


def test_one_layer_of_the_cache_crosses_at_a_time(offloading):
    """All that moves between the two memories are a layer's keys and values, (B, A, S, h, d)."""

    def moves(program):
        puts = [e for e in equations(program) if e.primitive.name == "device_put"]
        avals = [(a.aval, b.aval) for e in puts for a, b in zip(e.invars, e.outvars, strict=True)]
        return [(a.memory_space, b.memory_space, a.ndim) for a, b in avals if a.memory_space is not b.memory_space]

    dit, params = offloading.dit, {"params": offloading.params["dit"]}
    latents = np.zeros((1, 2, 8, 16, 16), np.float32)
    fill = jax.make_jaxpr(lambda x: dit.apply(params, x, method="condition"))(latents)
    assert moves(fill) == [(Space.Device, Space.Host, 5)] * 2
    text, cache = offloading.encode_prompt("a cat"), offloading.condition_cache(latents)
    use = jax.make_jaxpr(lambda *a, cache: dit.apply(params, *a, cache=cache))
    times = np.ones((1, 2), np.float32)
    assert moves(use(latents, times, text.states, text.mask, cache=cache)) == [(Space.Host, Space.Device, 5)] * 2


def test_what_is_offloaded_is_not_counted_but_while_it_visits(pipe, offloading):
    options = Options(num_frames=401, size=(64, 128))  # long enough to need more than the autoencoder
    asked = request.continuation(VIDEO, "a cat", options, num_cond_frames=5, kv_cache=True, enhance_hf=None)
    config = dataclasses.replace(pipe.dit.config, depth=48)
    deep = [dataclasses.replace(p.opened, dit=p.dit.clone(config=config)) for p in (pipe, offloading)]
    here, away = (plan.run_bytes(opened, asked, plan.plan(opened, asked)) for opened in deep)
    layer = 2 * 2 * (64 // 16) * (128 // 16) * config.hidden_size * 4  # k and v of two latent frames in float32
    assert here - away == (48 - 4) * layer


def test_names_are_checked_before_anything_is_read(checkpoint_dir):
    assert host_memory.parts("kv_cache, text_encoder,kv_cache") == ("kv_cache", "text_encoder")
    assert host_memory.parts(None) == host_memory.parts("") == ()
    with pytest.raises(InputError, match="offload 'vae' is not known: expected some of text_encoder, kv_cache"):
        Opened.open(checkpoint_dir, offload="vae")


def test_a_device_without_host_memory_is_refused():
    with pytest.raises(InputError, match="offload: TPU v1 keeps no arrays in the host's memory"):
        host_memory.check_kinds("TPU v1", ["device", "hbm"])
