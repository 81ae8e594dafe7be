"""umT5: goldens of the official encoder, its buckets, its config, bf16 mode."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import traces
from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import SafetensorsSource
from lcv_jax.checkpoint.table import UMT5
from lcv_jax.errors import InputError
from lcv_jax.models.precision import BFLOAT16, FLOAT32
from lcv_jax.models.umt5 import TextStates, UMT5Encoder, relative_buckets
from lcv_jax.models.umt5_config import UMT5Config


def abstract(config, precision=FLOAT32):
    model = UMT5Encoder(config, precision)
    ids = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), ids, jax.ShapeDtypeStruct((1, 4), bool))["params"]


@pytest.fixture(scope="module")
def published(checkpoint_dir):
    return json.loads((checkpoint_dir / "text_encoder" / "config.json").read_text())


@pytest.fixture(scope="module")
def config(published):
    return UMT5Config.from_json(published)


@pytest.fixture(scope="module")
def params(checkpoint_dir, config):
    return load_params(SafetensorsSource(checkpoint_dir / "text_encoder"), UMT5, abstract(config))


@functools.partial(jax.jit, static_argnums=(0, 1))
def encode(config, precision, params, ids, mask):
    return UMT5Encoder(config, precision).apply({"params": params}, ids, mask)


@pytest.mark.parametrize("case", ["short", "long"])
def test_states_equal_the_official_ones_at_every_position(goldens, config, params, case):
    golden = goldens("umt5")
    mask = golden[f"{case}_attention_mask"].astype(bool)
    assert not mask.all()
    states = encode(config, FLOAT32, params, golden[f"{case}_input_ids"].astype(np.int32), mask)
    assert states.dtype == jnp.float32
    np.testing.assert_allclose(states, golden[f"{case}_last_hidden_state"], atol=1e-4, rtol=0)


def test_batch_does_not_change_a_prompt(goldens, config, params):
    golden = goldens("umt5")
    ids, mask = (
        golden["short_input_ids"][:3].astype(np.int32),
        golden["short_attention_mask"][:3].astype(bool),
    )
    alone = encode(config, FLOAT32, params, ids[1:2], mask[1:2])
    np.testing.assert_allclose(encode(config, FLOAT32, params, ids, mask)[1:2], alone, atol=1e-5)


def test_padding_does_not_change_valid_positions(goldens, config, params):
    golden = goldens("umt5")
    ids, mask = (
        golden["short_input_ids"][:1].astype(np.int32),
        golden["short_attention_mask"][:1].astype(bool),
    )
    valid = int(mask.sum())
    cut = encode(config, FLOAT32, params, ids[:, :valid], mask[:, :valid])
    padded = encode(config, FLOAT32, params, ids, mask)
    np.testing.assert_allclose(padded[:, :valid], cut, atol=1e-5)


def test_bfloat16_stays_near_float32_and_keeps_its_islands(goldens, config, params):
    golden = goldens("umt5")
    ids, mask = golden["short_input_ids"].astype(np.int32), golden["short_attention_mask"].astype(bool)
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    reference = encode(config, FLOAT32, jax.tree.map(lambda x: x.astype(jnp.float32), rounded), ids, mask)
    states = encode(config, BFLOAT16, rounded, ids, mask)
    assert np.abs(states - reference).mean() < 0.02 * np.std(reference)
    jaxpr = jax.make_jaxpr(lambda p: UMT5Encoder(config, BFLOAT16).apply({"params": p}, ids, mask))(rounded)
    dtypes = traces.operand_dtypes(jaxpr)
    assert dtypes["exp"] == {"float32"}
    assert dtypes["rsqrt"] == {"float32"}
    assert {"bfloat16"} == dtypes["tanh"]


def test_float32_products_are_exact_on_every_backend(config):
    ids, mask = jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)

    def products(precision):
        model = UMT5Encoder(config, precision)
        trace = jax.make_jaxpr(lambda params: model.apply({"params": params}, ids, mask))
        return traces.precisions(trace(abstract(config, precision)))

    assert products(FLOAT32) == {"dot_general": {traces.EXACT}}
    assert products(BFLOAT16) == {"dot_general": {None}}


def test_full_size_has_the_published_number_of_parameters():
    config = UMT5Config()
    layer = 4 * 4096 * 4096 + 3 * 4096 * 10240 + 32 * 64 + 2 * 4096
    leaves = jax.tree.leaves(abstract(config))
    assert sum(leaf.size for leaf in leaves) == 256384 * 4096 + 24 * layer + 4096


def test_width_of_heads_may_differ_from_the_model():
    config = UMT5Config(vocab_size=16, d_model=12, d_kv=5, d_ff=8, num_layers=2, num_heads=3)
    shapes = abstract(config)
    assert shapes["block"]["attention"]["q"]["kernel"].shape == (2, 12, 15)
    assert shapes["block"]["attention"]["o"]["kernel"].shape == (2, 15, 12)


def test_untrained_weights_keep_the_size_of_what_they_multiply():
    """Standard deviations, and so logits of variance 1 without scaling; the bias is as large as they are."""
    config = UMT5Config(vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=8)
    model = UMT5Encoder(config, FLOAT32)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool))["params"]
    attention, ffn = params["block"]["attention"], params["block"]["ffn"]
    for weights, variance in (
        (params["shared"]["embedding"], 1),
        (attention["relative_attention_bias"]["embedding"], 1),
        (attention["q"]["kernel"], 1 / (64 * 16)),
        (attention["k"]["kernel"], 1 / 64),
        (attention["v"]["kernel"], 1 / 64),
        (attention["o"]["kernel"], 1 / (8 * 16)),
        (ffn["wi_0"]["kernel"], 1 / 64),
        (ffn["wi_1"]["kernel"], 1 / 64),
        (ffn["wo"]["kernel"], 1 / 96),
    ):
        assert float(jnp.std(weights)) == pytest.approx(variance**0.5, rel=0.1)
    assert not np.array_equal(ffn["wi_0"]["kernel"][0], ffn["wi_0"]["kernel"][1])


def test_buckets_equal_the_official_table(goldens):
    golden = goldens("umt5")
    length = (len(golden["relative_position"]) + 1) // 2
    np.testing.assert_array_equal(relative_buckets(length, 32, 128), golden["relative_position_bucket"])


def test_buckets_double_at_powers():
    buckets = relative_buckets(129, 32, 128)[128:]  # relative positions 0..128
    assert [int(buckets[n]) - 16 for n in (1, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128)] == [
        *(1, 7, 8, 9, 10, 11, 12, 13, 14, 15, 15)
    ]


@pytest.mark.parametrize(("num_buckets", "max_distance"), [(8, 16), (16, 100), (64, 1000), (4, 2)])
def test_buckets_of_other_sizes(num_buckets, max_distance):
    side, exact = num_buckets // 2, num_buckets // 4
    length = 2 * max_distance
    buckets = relative_buckets(length, num_buckets, max_distance)
    before, after = buckets[:length][::-1], buckets[length - 1 :]
    np.testing.assert_array_equal(after[1:], before[1:] + side)
    np.testing.assert_array_equal(before[: exact + 1], np.arange(exact + 1))
    assert (np.diff(before) >= 0).all()
    assert (before[max_distance:] == side - 1).all()
    inside = np.arange(exact + 1, max_distance)
    ideal = exact + np.log(inside / exact) / np.log(max_distance / exact) * (side - exact)
    assert (np.abs(before[inside] - np.floor(ideal + 1e-9)) == 0).all()


def test_config_reads_the_published_file(published, config):
    assert config == UMT5Config(
        vocab_size=640, d_model=64, d_kv=16, d_ff=160, num_layers=3, num_heads=4, layer_norm_epsilon=1e-6
    )
    assert UMT5Config.from_json(config.to_json()) == config
    assert UMT5Config.from_json({**published, "torch_dtype": "bfloat16", "output_past": True}) == config


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"d_modell": 3}, "unknown field 'd_modell'"),
        ({"model_type": "t5"}, "model_type='t5': expected 'umt5'"),
        ({"dense_act_fn": "relu"}, "dense_act_fn='relu'"),
        ({"feed_forward_proj": "relu"}, "feed_forward_proj='relu'"),
        ({"is_gated_act": False}, "is_gated_act=False"),
        ({"is_decoder": True}, "is_decoder=True"),
        ({"num_heads": 0}, "num_heads=0: expected a positive whole number"),
        ({"num_heads": "4"}, "num_heads='4'"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon=-1.0: expected a positive number"),
        ({"relative_attention_num_buckets": 30}, "multiple of 4"),
        ({"relative_attention_max_distance": 8}, "more than a quarter"),
    ],
)
def test_config_refuses(published, change, match):
    with pytest.raises(InputError, match=match):
        UMT5Config.from_json({**published, **change})


@pytest.mark.parametrize("key", ["d_model", "model_type"])
def test_config_misses(published, key):
    with pytest.raises(InputError, match=f"field '{key}' is missing"):
        UMT5Config.from_json({k: v for k, v in published.items() if k != key})


def test_encoder_refuses_shapes(config, params):
    with pytest.raises(InputError, match=r"mask of shape \(1, 3\)"):
        encode(config, FLOAT32, params, np.zeros((1, 4), np.int32), np.ones((1, 3), bool))


def test_text_states_are_a_pytree():
    text = TextStates(jnp.ones((2, 3, 4)), jnp.ones((2, 3), bool))
    doubled = jax.jit(lambda t: jax.tree.map(lambda x: x, t))(text)
    assert isinstance(doubled, TextStates)
    assert jax.tree.unflatten(jax.tree.structure(text), [None, None]).states is None
    assert jax.vmap(lambda t: t.states.sum())(text).shape == (2,)


def test_text_states_are_checked():
    checked = TextStates(np.ones((2, 3, 4), np.float32), np.array([[1, 1, 0], [1, 0, 0]])).checked()
    assert checked.mask.dtype == bool
    assert checked.mask.sum() == 3
    good = TextStates(np.ones((2, 3, 4), np.float32), np.ones((2, 3), bool))
    with pytest.raises(InputError, match=r"text states: shape \(2, 3\)"):
        dataclasses.replace(good, states=np.ones((2, 3), np.float32)).checked()
    with pytest.raises(InputError, match="dtype int32"):
        dataclasses.replace(good, states=np.ones((2, 3, 4), np.int32)).checked()
    with pytest.raises(InputError, match=r"text mask: shape \(2, 1\), expected \(2, 3\)"):
        dataclasses.replace(good, mask=np.ones((2, 1), bool)).checked()
