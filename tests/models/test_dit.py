"""The DiT against the official numbers (goldens README 3 and 4.1, 4.2), and what must hold for any weights."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import traces
from dit_goldens import channels_last, check_gradients, inputs, part, read_config, read_params
from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT, KVCache
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.dit_embed import sinusoid
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.zoo import abstract_params
from lcv_jax.ops.attention import joined

ONE_FORWARD, BLOCK_STATES = 1e-4, 3e-4
BLOCKS = {"chunk_3d_shape_q": [4, 4, 4], "chunk_3d_shape_k": [4, 4, 4]}


@pytest.fixture(scope="module")
def config(checkpoint_dir):
    return read_config(checkpoint_dir)


@pytest.fixture(scope="module")
def params(checkpoint_dir, config):
    return read_params(checkpoint_dir, config)


def close(ours, official, atol=ONE_FORWARD):
    np.testing.assert_allclose(ours, official, atol=atol, rtol=0)


def forward(config, params, precision=FLOAT32, **static):
    model = DiT(config, precision)

    @jax.jit
    def run(latents, t, text, mask=None, cache=None):
        return model.apply({"params": params}, latents, t, text, mask, cache=cache, mutable="intermediates", **static)

    def call(*args):
        velocity, state = run(*args)
        return velocity, state["intermediates"]

    return call


def hidden(intermediates):
    return intermediates["blocks"]["hidden"][0]


def test_time_embedding(goldens, config, params):
    g = goldens("timestep_embed")
    close(sinusoid(jnp.asarray(g["timesteps"]), config.frequency_embedding_size), g["sinusoid"], 1e-4)
    latents, text = jnp.zeros((1, 12, 2, 2, 16)), jnp.zeros((1, 1, config.caption_channels))
    _, state = forward(config, params)(latents, g["timesteps"][None] / 1000, text)
    close(state["t_emb"][0][0], g["t_emb"])


@pytest.mark.smoke
def test_text_to_video(goldens, config, params):
    g = goldens("dit_t2v")
    velocity, state = forward(config, params)(*inputs(g))
    close(state["patch_embed"][0], g["hidden_patch_embed"])
    close(state["t_emb"][0].reshape(g["t_emb"].shape), g["t_emb"])
    close(state["y_emb"][0], g["y_emb"][:, 0])
    for i in range(config.depth):
        close(hidden(state)[i], g[f"hidden_block_{i}"], BLOCK_STATES)
    close(velocity, channels_last(g["output"]))
    close(velocity, channels_last(g["output_zero_pad_true"]))


def test_each_frame_has_its_own_timestep(goldens, config, params):
    g = goldens("dit_t2v")
    velocity, _ = forward(config, params)(*inputs(g, "timestep_per_frame"))
    close(velocity, channels_last(g["output_per_frame_timestep"]))


def test_padding_is_masked_out_when_not_zeroed(goldens, config, params):
    g = goldens("dit_t2v")
    masked = dataclasses.replace(config, text_tokens_zero_pad=False)
    velocity, _ = forward(masked, params)(*inputs(g))
    close(velocity, channels_last(g["output_zero_pad_false"]))


def test_without_a_mask_all_text_is_attended(goldens, config, params):
    g = goldens("dit_t2v")
    velocity, _ = forward(config, params)(*inputs(g)[:3])
    close(velocity, channels_last(g["output_no_mask"]))


def test_image_to_video(goldens, config, params):
    g = goldens("dit_i2v")
    velocity, state = forward(config, params, num_cond=int(g["num_cond_latents"]))(*inputs(g))
    for i in range(config.depth):
        close(hidden(state)[i], g[f"hidden_block_{i}"], BLOCK_STATES)
    close(velocity, channels_last(g["output"]))


@pytest.fixture(scope="module")
def condition_pass(goldens, config, params):
    g = goldens("dit_vc")
    cond = channels_last(g["hidden_states"])[:1, : int(g["num_cond_latents"])]
    model = DiT(config, FLOAT32)
    return jax.jit(lambda z: model.apply({"params": params}, z, method="condition"))(cond)


def test_condition_pass_fills_the_cache_before_rotation(goldens, config, condition_pass):
    g = goldens("dit_vc")
    close(condition_pass.velocity, channels_last(g["cond_pass_output"]))
    for i in range(config.depth):
        close(joined(condition_pass.cache.k[i]).swapaxes(1, 2), g[f"k_cache_{i}"])
        close(joined(condition_pass.cache.v[i]).swapaxes(1, 2), g[f"v_cache_{i}"])
    assert condition_pass.cache.frames == int(g["num_cond_latents"])


@pytest.mark.smoke
def test_continuation_with_and_without_cache(goldens, config, params, condition_pass):
    g = goldens("dit_vc")
    n = int(g["num_cond_latents"])
    latents, t, text, mask = inputs(g)
    whole, _ = forward(config, params, num_cond=n)(latents, t, text, mask)
    close(whole, channels_last(g["output"]))
    cached, state = forward(config, params)(latents[:, n:], t[:, n:], text, mask, condition_pass.cache)
    close(cached, channels_last(g["output_noise_cached"]))
    for i in range(config.depth):
        close(hidden(state)[i], g[f"cached_hidden_block_{i}"], BLOCK_STATES)
    close(cached, whole[:, n:], 1e-5)


def test_condition_frames_get_nothing_from_the_text(goldens, config, params):
    g = goldens("dit_i2v")
    run = forward(config, params, num_cond=1)
    latents, t, text, mask = inputs(g)
    one, _ = run(latents, t, text, mask)
    other, _ = run(latents, t, text + 1, mask)
    np.testing.assert_array_equal(one[:, :1], other[:, :1])
    assert np.abs(one[:, 1:] - other[:, 1:]).max() > 0.1


def test_rows_of_a_batch_do_not_touch(goldens, config, params):
    latents, t, text, mask = inputs(goldens("dit_t2v"))
    run = forward(config, params)
    both, _ = run(latents, t, text, mask)
    close(run(latents[1:], t[1:], text[1:], mask[1:])[0], both[1:], 1e-5)


def test_gradients(goldens, config, params):
    g = goldens("dit_grad")
    check_gradients(DiT(config, FLOAT32), params, part(g, "full_"), [str(n) for n in g["grad_norm_names"]])


def test_the_published_model_has_13_581_071_424_parameters():
    shapes = abstract_params(DiTConfig(), BFLOAT16)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert count == 13_581_071_424
    block = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(shapes["blocks"]))
    assert block == 282_132_992


def rounded_time(t):
    """t whose timestep 1000 t a bfloat16 model sees exactly."""
    return np.asarray(jnp.asarray(t * 1000, jnp.bfloat16), np.float32) / 1000


@pytest.mark.parametrize("case", ["dit_t2v", "dit_i2v", "dit_vc"])
def test_bfloat16_is_close_to_float32(goldens, config, params, case):
    g = goldens(case)
    n = int(g.get("num_cond_latents", 0))
    latents, t, text, mask = inputs(g)
    t = rounded_time(t)
    exact, _ = forward(config, params, num_cond=n)(latents, t, text, mask)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    ours, state = forward(config, low, BFLOAT16, num_cond=n)(latents, t, text, mask)
    assert np.abs(np.asarray(ours) - exact).mean() < 0.02 * np.std(exact)
    # Float32 islands: the time embedding and the output; the residual stream is bfloat16.
    assert ours.dtype == jnp.float32
    assert state["t_emb"][0].dtype == jnp.float32
    assert hidden(state).dtype == jnp.bfloat16


def _traced(config, precision):
    model = DiT(config, precision)
    args = jnp.zeros((1, 2, 4, 4, 16)), jnp.zeros((1, 2)), jnp.zeros((1, 3, config.caption_channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    with jax.default_matmul_precision(None):
        return jax.make_jaxpr(model.apply)(shapes, *args).jaxpr


def test_float32_islands_stay_float32(config):
    """In the bfloat16 model's program: norms' statistics, RoPE, softmax, time embedding, modulation, the gated
    additions and the final layer."""
    D = config.hidden_size
    islands = {"rsqrt": 0, "cos": 0, "sin": 0, "exp": 0}
    products, gated_sums = {}, set()
    for eqn in traces.equations(_traced(config, BFLOAT16)):
        if not eqn.outvars:
            continue
        name, out = eqn.primitive.name, eqn.outvars[0].aval
        if name in islands:
            islands[name] += 1
            assert str(out.dtype) == "float32", name
        if name == "dot_general":
            products.setdefault(out.shape[-2:], set()).add(str(out.dtype))
        if name == "add" and out.shape == (1, 2, 4, D):
            gated_sums.add(str(out.dtype))
    assert all(islands.values())
    last = {shape[-1]: dtypes for shape, dtypes in products.items()}
    assert products[6, D] == last[2 * 2 * config.out_channels] == last[config.adaln_tembed_dim] == {"float32"}
    assert products[3, D] == {"bfloat16"}
    # The gated additions in float32, the ungated one of the cross-attention in bfloat16.
    assert gated_sums == {"float32", "bfloat16"}


def test_float32_is_full_float32_on_every_backend(config):
    assert traces.precisions(_traced(config, FLOAT32)) == {"dot_general": {traces.EXACT}}


def test_bad_calls_raise(config, params):
    model = DiT(config, FLOAT32)
    latents, t, text = jnp.zeros((1, 2, 4, 4, 16)), jnp.zeros((1, 2)), jnp.zeros((1, 3, 64))
    with pytest.raises(InputError, match=r"num_cond=2 of 2 latent frames"):
        model.apply({"params": params}, latents, t, text, num_cond=2)
    with pytest.raises(InputError, match="H divisible by 2"):
        model.apply({"params": params}, latents[:, :, :3], t, text)
    with pytest.raises(InputError, match="expected five axes"):
        model.apply({"params": params}, latents[0], t, text)
    with pytest.raises(InputError, match=r"t \(2,\): expected \(B, T\)"):
        model.apply({"params": params}, latents, t[0], text)
    for wrong in (text[0], text[..., :5], jnp.zeros((2, 3, 64))):
        with pytest.raises(InputError, match=r"expected \(B, L, D\) = \(1, L, 64\)"):
            model.apply({"params": params}, latents, t, wrong)
    with pytest.raises(InputError, match=r"text mask \(1, 2\)"):
        model.apply({"params": params}, latents, t, text, jnp.ones((1, 2), bool))


@pytest.mark.parametrize(
    ("rows", "tokens", "num_cond", "message"),
    [
        (1, 4, 1, "the cache holds 3 condition frames"),
        (2, 4, 3, "2 rows of 3 x 4 tokens: expected rows that divide the batch of 1"),
        (1, 16, 0, "1 rows of 3 x 16 tokens: .* 3 x 4 tokens, 3 frames of 2 x 2;"),
    ],
)
def test_caches_that_do_not_fit_raise(config, params, rows, tokens, num_cond, message):
    keys = jnp.zeros((3, rows, 3, tokens, 4, 32))
    latents, t, text = jnp.zeros((1, 2, 4, 4, 16)), jnp.zeros((1, 2)), jnp.zeros((1, 3, 64))
    with pytest.raises(InputError, match=message):
        DiT(config, FLOAT32).apply(
            {"params": params}, latents, t, text, num_cond=num_cond, cache=KVCache(keys, keys, frames=3)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 1}, "unknown field 'hidden'"),
        ({"depth": None}, "depth=None"),
        ({"depth": 0}, "depth=0"),
        ({"depth": True}, "depth=True"),
        ({"text_tokens_zero_pad": "yes"}, "expected true or false"),
        ({"bsa_params": BLOCKS | {"sparsity": "0.5"}}, "sparsity='0.5'"),
        ({"num_heads": 5}, "does not split into num_heads=5"),
        ({"patch_size": [2, 2, 2]}, "expected 1 latent frame"),
        ({"patch_size": 2}, "expected 3 positive whole numbers"),
        ({"frequency_embedding_size": 255}, "expected an even number"),
        ({"bsa_params": {"sparsity": 0.5}}, "bsa_params: field 'chunk_3d_shape_k' is missing"),
        ({"bsa_params": BLOCKS}, "neither sparsity nor cdf_threshold"),
        ({"bsa_params": BLOCKS | {"sparsity": 1.5}}, r"sparsity=1\.5"),
        ({"bsa_params": BLOCKS | {"sparsity": 0.5, "block": 4}}, "unknown field 'block'"),
    ],
)
def test_bad_configs_raise(checkpoint_dir, change, message):
    data = json.loads((checkpoint_dir / "dit" / "config.json").read_text())
    with pytest.raises(InputError, match=message):
        DiTConfig.from_json(data | change)


def test_the_published_config_is_the_default():
    published = {
        "_class_name": "LongCatVideoTransformer3DModel",
        "_diffusers_version": "0.35.1",
        "adaln_tembed_dim": 512,
        "bsa_params": BLOCKS | {"sparsity": 0.9375},
        "caption_channels": 4096,
        "cp_split_hw": None,
        "depth": 48,
        "enable_bsa": False,
        "enable_flashattn2": False,
        "enable_flashattn3": True,
        "enable_xformers": False,
        "frequency_embedding_size": 256,
        "hidden_size": 4096,
        "in_channels": 16,
        "mlp_ratio": 4,
        "num_heads": 32,
        "out_channels": 16,
        "patch_size": [1, 2, 2],
        "text_tokens_zero_pad": True,
    }
    assert DiTConfig.from_json(published) == DiTConfig()


def test_a_config_survives_its_own_json(config):
    assert DiTConfig.from_json(config.to_json()) == config
    data = config.to_json()
    del data["depth"]
    with pytest.raises(InputError, match="'depth' is missing"):
        DiTConfig.from_json(data)
