"""Attention cut over eight virtual devices equals one device; and what is refused."""

import dataclasses
import logging

import jax
import jax.numpy as jnp
import pytest

import context_battery
import devices
from lcv_jax.errors import InputError
from lcv_jax.ops.attention import DenseAttention, dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.context import ContextAttention


def on_eight_devices(*arguments: str) -> dict[str, str]:
    """{check: fault or ""} of the battery, from a process with eight devices."""
    return devices.report("tests/context_battery.py", *arguments)


@pytest.fixture(scope="module")
def quick_faults():
    return on_eight_devices()


@pytest.fixture(scope="module")
def slow_faults():
    return on_eight_devices("slow")


@pytest.mark.smoke
@pytest.mark.parametrize("check", context_battery.QUICK)
def test_on_eight_devices(check, quick_faults):
    assert quick_faults[check] == "", quick_faults[check]


@pytest.mark.slow
@pytest.mark.parametrize("check", context_battery.SLOW)
def test_more_on_eight_devices(check, slow_faults):
    assert slow_faults[check] == "", slow_faults[check]


@pytest.fixture(scope="module")
def mesh():
    """One device's share of a mesh, enough for what is refused."""
    return jax.sharding.AbstractMesh((1, 2, 4, 2), context_battery.AXES)


def test_it_is_a_value(mesh):
    one, other = (ContextAttention(mesh, DenseAttention("xla"), tokens=("fsdp", "context")) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert (one.parts, one.token_block) == (8, None)


def call(attention, heads=8, slabs=2, tokens=16, grid=(2, 4, 4), **settings):
    x = jax.ShapeDtypeStruct((2, slabs, tokens, heads, 8), jnp.float32)
    return jax.eval_shape(lambda x: attention(x, x, x, **{"grid_q": grid, "grid_k": grid, **settings}), x)


def test_the_method_follows_the_heads(mesh):
    attention = ContextAttention(mesh)
    assert [attention.method(heads) for heads in (8, 16, 4, 12)] == ["ulysses", "ulysses", "ring", "ring"]
    assert ContextAttention(mesh, kind="ring").method(8) == "ring"
    with pytest.raises(InputError, match="gives each of the 4 parts of the tokens its heads, and 3 do not divide"):
        ContextAttention(mesh, kind="ulysses").method(6)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"kind": "spiral"}, "'spiral' is not known: expected one of ulysses, ring"),
        ({"tokens": ("contxt",)}, "no axis 'contxt': expected one of data, fsdp, context, tensor"),
        ({"tokens": ("data", "context")}, "'data' is to cut more than one of batch"),
        ({"tokens": ("context", "fsdp")}, r"expected them in the mesh's order, \('fsdp', 'context'\)"),
    ],
)
def test_a_meaningless_value_is_refused(mesh, settings, fault):
    with pytest.raises(InputError, match=fault):
        ContextAttention(mesh, **settings)


@pytest.mark.parametrize(
    ("shape", "fault"),
    [
        ({"heads": 5}, r"5 heads do not divide by the 2 devices of the mesh axes \('tensor',\)"),
        ({"tokens": 18}, r"q holds 2 slabs of 18 tokens: .* a multiple of 4 \(4 parts of tokens\)"),
        ({"tokens": 12}, "2 slabs of 12 tokens: expected one for every 1 of the 2 frames of 4 x 4 tokens"),
        ({"slabs": 1, "tokens": 32}, "1 slabs of 32 tokens: expected one for every 1 of the 2 frames"),
        ({"key_mask": jnp.ones((2, 32), bool)}, "a key mask is for keys that are no video"),
    ],
)
def test_what_does_not_fit_is_refused(mesh, shape, fault):
    with pytest.raises(InputError, match=fault):
        call(ContextAttention(mesh), **shape)


def test_the_choice_is_logged_once(mesh, caplog):
    with caplog.at_level(logging.INFO, "lcv_jax.parallel.context"):
        for _ in range(2):
            ContextAttention(mesh, dense_attention).method(2 * 44)
            ContextAttention(mesh, dense_attention).method(2 * 45)
    assert caplog.messages == [
        "context parallelism: ulysses; a device's 44 heads divide by the 4 parts of the tokens",
        "context parallelism: ring; a device's 45 heads do not divide by the 4 parts of the tokens",
    ]


BLOCKS = BlockSparseAttention((2, 2, 2), (2, 2, 2), 0.5)


@pytest.mark.parametrize(
    ("inner", "shape", "fault"),
    [
        (DenseAttention("cudnn"), {}, "attention 'cudnn' has no ring, .* expected one of xla, xla_chunked"),
        (dataclasses.replace(BLOCKS, block_k=(1, 4, 4)), {}, r"blocks \(2, 2, 2\) and key blocks \(1, 4, 4\) differ"),
        (BLOCKS, {"slabs": 1, "tokens": 36}, r"padded to a multiple of 32 \(4 parts of whole blocks\)"),
        (BLOCKS, {"slabs": 2, "tokens": 32}, "expected one for every 2 of the 2 frames"),
        (BLOCKS, {"slabs": 1, "tokens": 32, "grid": (2, 3, 4)}, "block sparse attention: grid_q"),
        (dataclasses.replace(BLOCKS, sparsity=1.5), {"slabs": 1, "tokens": 32}, "block sparse .*: sparsity=1.5"),
    ],
)
def test_what_no_ring_takes_is_refused(mesh, inner, shape, fault):
    with pytest.raises(InputError, match=fault):
        call(ContextAttention(mesh, inner, "ring"), **shape)
