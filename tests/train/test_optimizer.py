"""AdamW by hand on two numbers, and which leaves of the DiT decay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import training
from lcv_jax.errors import InputError
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.zoo import abstract_params
from lcv_jax.train.optimizer import AdamW, decayed


def steps(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.smoke
def test_two_steps_by_hand():
    config = AdamW(rate=0.1, warmup=2, clip=1.0, weight_decay=0.5, b1=0.5, b2=0.75, epsilon=1e-12)
    params = {"kernel": jnp.float32([2.0]), "bias": jnp.float32([2.0])}
    gradients = [{"kernel": jnp.float32([3.0]), "bias": jnp.float32([4.0])}] * 2
    after = steps(config.make(), params, gradients)
    # Both gradients have norm 5 and are clipped to 0.6 and 0.8. They are constant, so that m / sqrt(v), corrected for
    # the start, is 1, and each step moves by the rate: 0.05, then 0.1, and the kernel also by rate * decay.
    kernel = 2.0
    for rate in (0.05, 0.1):
        kernel -= rate * (1 + 0.5 * kernel)
    np.testing.assert_allclose(after["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(after["bias"], 2 - 0.15, rtol=1e-6)


def test_large_gradients_are_clipped_to_the_norm_and_small_ones_kept():
    """Seen through a second step: Adam's direction depends on how the two gradients compare."""
    config = AdamW(rate=1.0, warmup=0, clip=1.0, weight_decay=0, b1=0, b2=0.5, epsilon=1e-12)
    params = {"bias": jnp.float32([0.0])}
    after = steps(config.make(), params, [{"bias": jnp.float32([100.0])}, {"bias": jnp.float32([0.5])}])
    # Clipped to 1, then 0.5: v = (0.25 * 1 + 0.5 * 0.25) / 0.75 = 0.5, the second step 0.5 / sqrt(0.5).
    np.testing.assert_allclose(after["bias"], -1 - 0.5 / np.sqrt(0.5), rtol=1e-6)


def test_the_rate_rises_and_stays():
    config = AdamW(rate=1e-4, warmup=4)
    np.testing.assert_allclose([config.schedule(i) for i in range(6)], [25e-6, 50e-6, 75e-6, 1e-4, 1e-4, 1e-4])
    assert float(AdamW(rate=1e-4, warmup=0).schedule(0)) == pytest.approx(1e-4)


def test_what_decays_of_the_dit():
    flags = jax.tree_util.tree_leaves_with_path(decayed(abstract_params(training.TINY, FLOAT32)))
    names = {jax.tree_util.keystr(path, simple=True, separator="/"): flag for path, flag in flags}
    assert {name for name, flag in names.items() if flag} == {
        *(f"blocks/attn/{name}/kernel" for name in ("qkv", "proj")),
        *(f"blocks/cross_attn/{name}/kernel" for name in ("q_linear", "kv_linear", "proj")),
        *(f"blocks/ffn/{name}/kernel" for name in ("w1", "w2", "w3")),
        "blocks/adaLN_modulation/kernel",
        "final_layer/adaLN_modulation/kernel",
        "final_layer/linear/kernel",
    }
    assert {name.rsplit("/", 1)[1] for name, flag in names.items() if not flag} == {"bias", "scale", "kernel"}
    adapter = {"blocks": {"attn": {"qkv": {"adapters": {"a": {"down": 0, "up": 0, "scale": 0}}}}}}
    assert decayed(adapter)["blocks"]["attn"]["qkv"]["adapters"]["a"] == {"down": True, "up": True, "scale": False}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0}, "rate=0: expected a number above 0"),
        ({"rate": float("nan")}, "rate=nan"),
        ({"clip": 0}, "clip=0"),
        ({"warmup": -1}, "warmup=-1: expected a number of at least 0"),
        ({"weight_decay": -0.1}, r"weight_decay=-0\.1"),
        ({"b1": 1}, "b1=1: expected a number from 0 to below 1"),
        ({"b2": -0.5}, r"b2=-0\.5"),
        ({"epsilon": 0}, "epsilon=0"),
    ],
)
def test_bad_settings_raise(change, message):
    with pytest.raises(InputError, match=message):
        AdamW(**{"rate": 1e-4} | change)
