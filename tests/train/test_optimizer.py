"""AdamW by hand on two numbers, Muon on small matrices; which leaves decay, and which are made orthogonal."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

import training
from lcv_jax.checkpoint.load import flatten
from lcv_jax.errors import InputError
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.umt5_config import UMT5Config
from lcv_jax.models.vae_config import VAEConfig
from lcv_jax.models.zoo import abstract_params
from lcv_jax.train.optimizer import AdamW, Muon, decayed, orthogonalised
from lcv_jax.train.state import create, state_shardings


def steps(config, params, gradients):
    optimizer = config.make()
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
    after = steps(config, params, gradients)
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
    after = steps(config, params, [{"bias": jnp.float32([100.0])}, {"bias": jnp.float32([0.5])}])
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
        ({"cooldown": (5, 5)}, r"cooldown=\(5, 5\): expected two steps, the first below the second"),
        ({"cooldown": (-1, 5)}, r"cooldown=\(-1, 5\)"),
        ({"adam_share": 0}, "adam_share=0: expected a number above 0"),
        ({"momentum": 1}, "momentum=1: expected a number from 0 to below 1"),
    ],
)
def test_bad_settings_raise(change, message):
    kind = Muon if set(change) & {"adam_share", "momentum"} else AdamW
    with pytest.raises(InputError, match=message):
        kind(**{"rate": 1e-4} | change)


QUINTIC = (3.4445, -4.775, 2.0315)
"""Newton and Schulz's iteration as Jordan et al. (2024) tuned it: five times a s + b s^3 + c s^5 of every singular
value s. It takes what it gets to about 1."""


def orthogonal(matrix):
    """By singular values, in float64."""
    u, s, v = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = QUINTIC[0] * s + QUINTIC[1] * s**3 + QUINTIC[2] * s**5
    assert np.all((s > 0.6) & (s < 1.3))
    return (u * s) @ v


def muon(**changes):
    return Muon(**{"rate": 0.1, "warmup": 0, "clip": 1e9, "weight_decay": 0.0} | changes)


@pytest.mark.smoke
@pytest.mark.parametrize("shape", [(6, 6), (4, 8), (8, 4)])
def test_muons_first_step_by_hand(shape):
    """The gradient's own directions, all of about the same length: 0.2 sqrt(max(inputs, outputs)) times the rate."""
    rng = np.random.default_rng(0)
    before, gradient = (rng.normal(size=shape).astype(np.float32) for _ in range(2))
    after = steps(muon(weight_decay=0.5), {"kernel": jnp.asarray(before)}, [{"kernel": jnp.asarray(gradient)}])
    step = 0.2 * max(shape) ** 0.5 * orthogonal(gradient)
    np.testing.assert_allclose(after["kernel"], before - 0.1 * (step + 0.5 * before), atol=1e-5)
    assert np.sqrt(np.mean(step**2)) == pytest.approx(0.2, rel=0.2)  # as Adam's steps in practice


def test_muons_momentum_by_hand():
    """Two gradients: m = 0.1 g1, then 0.9 m + 0.1 g2; Nesterov looks one step ahead, and both are corrected for their
    start."""
    rng = np.random.default_rng(1)
    one, two = (rng.normal(size=(5, 5)).astype(np.float32) for _ in range(2))
    after = steps(muon(momentum=0.9), {"kernel": jnp.zeros((5, 5))}, [{"kernel": jnp.asarray(g)} for g in (one, two)])
    m = 0.9 * (0.1 * one) + 0.1 * two
    ahead = 0.9 * m / (1 - 0.9**3) + 0.1 * two / (1 - 0.9**2)
    expected = -0.1 * 0.2 * 5**0.5 * (orthogonal(one) + orthogonal(ahead))
    np.testing.assert_allclose(after["kernel"], expected, atol=1e-5)


def test_what_muon_leaves_to_adam_moves_at_its_share_and_does_not_decay():
    """With a constant gradient Adam's moments, one step ahead, are 4/3 and then 23/21 times what they are without."""
    params = {"reader": {"kernel": jnp.float32([[2.0]])}, "bias": jnp.float32([2.0])}
    gradients = [{"reader": {"kernel": jnp.float32([[3.0]])}, "bias": jnp.float32([-4.0])}] * 2
    after = steps(muon(adam_share=0.25, weight_decay=0.5, b1=0.5, epsilon=1e-12), params, gradients)
    np.testing.assert_allclose(after["reader"]["kernel"], 2 - (4 / 3 + 23 / 21) * 0.025, rtol=1e-5)
    np.testing.assert_allclose(after["bias"], 2 + (4 / 3 + 23 / 21) * 0.025, rtol=1e-5)


def test_layers_and_parts_are_matrices_of_their_own():
    """A stacked, fused kernel moves as its matrices one by one; a convolution's window belongs to its inputs."""
    rng = np.random.default_rng(2)
    fused = rng.normal(size=(2, 4, 3, 5)).astype(np.float32)
    window = rng.normal(size=(3, 3, 2, 6)).astype(np.float32)
    gradient = {"blocks": {"attn": {"qkv": {"kernel": jnp.asarray(fused)}}}, "conv": {"kernel": jnp.asarray(window)}}
    after = steps(muon(), jax.tree.map(jnp.zeros_like, gradient), [gradient])
    for layer in range(2):
        for part in range(3):
            ours = after["blocks"]["attn"]["qkv"]["kernel"][layer, :, part]
            np.testing.assert_allclose(ours, -0.1 * 0.2 * 5**0.5 * orthogonal(fused[layer, :, part]), atol=1e-5)
    whole = orthogonal(window.reshape(18, 6)).reshape(window.shape)
    np.testing.assert_allclose(after["conv"]["kernel"], -0.1 * 0.2 * 18**0.5 * whole, atol=1e-5)


def matrices(config):
    """Names of the leaves that Muon makes orthogonal, with the axes of inputs and outputs."""
    abstract = abstract_params(config, FLOAT32)
    found = jax.tree_util.tree_leaves_with_path(orthogonalised(abstract), is_leaf=lambda x: hasattr(x, "output_axis"))
    axes = {
        jax.tree_util.keystr(path, simple=True, separator="/"): (x.reduction_axis, x.output_axis) for path, x in found
    }
    return axes, {name for name in flatten(abstract) if name.endswith("kernel")} - set(axes)


def test_what_muon_makes_orthogonal_of_the_dit():
    axes, others = matrices(training.TINY)
    assert axes == {
        **{f"blocks/{name}/kernel": ((1,), 3) for name in ("attn/qkv", "cross_attn/kv_linear", "adaLN_modulation")},
        **{f"blocks/{name}/proj/kernel": ((1,), 2) for name in ("attn", "cross_attn")},
        "blocks/cross_attn/q_linear/kernel": ((1,), 2),
        **{f"blocks/ffn/{name}/kernel": ((1,), 2) for name in ("w1", "w2", "w3")},
    }
    assert {name.split("/")[0] for name in others} == {"x_embedder", "t_embedder", "y_embedder", "final_layer"}


def test_what_muon_makes_orthogonal_of_the_encoders():
    axes, others = matrices(UMT5Config(vocab_size=8, d_model=8, d_kv=4, d_ff=8, num_layers=2, num_heads=2))
    names = [f"attention/{name}" for name in "qkvo"] + [f"ffn/{name}" for name in ("wi_0", "wi_1", "wo")]
    assert axes == {f"block/{name}/kernel": ((1,), 2) for name in names}
    assert not others
    axes, others = matrices(VAEConfig(4, 2, (1, 1), 1, (True,), latents_mean=(0.0, 0.0), latents_std=(1.0, 1.0)))
    assert not others
    kinds = {name.split("/")[-2]: value for name, value in axes.items()}
    assert kinds["conv1"] == kinds["time_conv"] == ((0, 1, 2, 3), 4)
    assert kinds["resample"] == ((0, 1, 2), 3)
    assert kinds["to_qkv"] == kinds["quant_conv"] == ((0,), 1)


def test_the_rate_falls_in_a_straight_line():
    config = AdamW(rate=1.0, warmup=2, cooldown=(4, 8))
    np.testing.assert_allclose(
        [config.schedule(i) for i in range(10)], [0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0, 0], rtol=1e-6
    )
    falling = AdamW(rate=1.0, warmup=4, cooldown=(0, 4))  # the two multiply
    np.testing.assert_allclose([falling.schedule(i) for i in range(4)], [0.25, 0.5 * 0.75, 0.75 * 0.5, 0.25], rtol=1e-6)


@pytest.mark.parametrize("optimizer", [AdamW(rate=1e-3), Muon(rate=1e-3)], ids=["adamw", "muon"])
def test_moments_lie_where_their_parameters_do(optimizer):
    """Told apart by their specs; counters lie everywhere. What one part of Muon leaves out has no place."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
    cut = {"kernel": P("x"), "bias": P(None, "x")}
    params = {"a": {"kernel": jnp.zeros((4, 4)), "bias": jnp.zeros(4)}}
    shardings = {"a": {name: NamedSharding(mesh, spec) for name, spec in cut.items()}}
    made = optimizer.make()
    abstract = jax.eval_shape(lambda: create(params, made, jax.random.key(0), ema=True))
    where = state_shardings(abstract, shardings, made)
    assert jax.tree.structure(where) == jax.tree.structure(abstract)
    moments = collections.Counter()
    for path, sharding in jax.tree_util.tree_leaves_with_path(where.optimizer):
        name = path[-1].key if isinstance(path[-1], jax.tree_util.DictKey) else None
        assert sharding.spec == cut.get(name, P())
        moments[name] += 1
    assert (moments["kernel"], moments["bias"]) == ((1, 2) if isinstance(optimizer, Muon) else (2, 2))


def test_moments_are_shared_by_devices_that_have_the_same_parameters():
    """Only shapes are looked at, so the mesh may be larger than what there is."""
    mesh = jax.sharding.AbstractMesh((2, 4, 3), ("data", "fsdp", "tensor"))
    cut = {"kernel": P(None, "fsdp"), "bias": P("fsdp"), "scale": P()}
    shapes = {"kernel": (6, 8, 8), "bias": (8,), "scale": (4, 8)}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    made = AdamW(rate=1e-3).make()
    abstract = jax.eval_shape(lambda tree: create(tree, made, jax.random.key(0), ema=True), params)
    where = state_shardings(abstract, {name: NamedSharding(mesh, spec) for name, spec in cut.items()}, made)
    leaves = jax.tree_util.tree_leaves_with_path(where.optimizer)
    told = {path[-1].key: leaf.spec for path, leaf in leaves if isinstance(path[-1], jax.tree_util.DictKey)}
    assert told == {"kernel": P(("data", "tensor"), "fsdp"), "bias": P("fsdp"), "scale": P(("data",))}
    assert {name: leaf.spec for name, leaf in where.ema.items()} == cut
