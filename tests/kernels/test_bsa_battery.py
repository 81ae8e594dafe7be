"""Every implementation that runs on any backend, through the battery."""

import functools

import jax
from hypothesis import given, settings
from hypothesis import strategies as st

from bsa_battery import (
    CASES,
    Battery,
    Case,
    Transformations,
    assert_near_oracle,
    inputs,
    oracle,
    selection,
    with_gradients,
)
from lcv_kernels.pallas import XlaConfig, attend_blocks


def attend(*arrays, **settings):
    return attend_blocks(*arrays, **settings, return_lse=True)


class TestReference(Battery):
    cases = CASES[::3]
    attend = staticmethod(functools.partial(attend, implementation="reference"))


class TestXla(Battery):
    attend = staticmethod(functools.partial(attend, implementation="xla"))


class TestXlaInPieces(Transformations):
    """One query block and two key blocks of 8 tokens at a time."""

    cases = tuple(
        case for case in CASES if case.name in ("all blocks", "odd", "cdf", "cdf that keeps nothing", "ragged")
    )
    config = XlaConfig(chunk_bytes=1, slice_keys=16)
    attend = staticmethod(functools.partial(attend, implementation="xla", config=config))


@st.composite
def any_case(draw):
    size = functools.partial(st.integers, 1)
    return Case(
        "drawn",
        B=draw(size(2)),
        heads=draw(size(2)),
        d=draw(size(9)),
        block_q=draw(size(5)),
        block_k=draw(size(5)),
        rows=draw(size(5)),
        columns=draw(size(6)),
        select=draw(st.sampled_from(("top", "cdf", "ragged"))),
        value=draw(st.floats(0, 1)),
    )


@settings(max_examples=8, deadline=None)
@given(
    case=any_case(),
    dtype=st.sampled_from(("float32", "bfloat16")),
    chunk=st.sampled_from((1, 2000, 1 << 20)),
    seed=st.integers(0, 9),
)
def test_xla_equals_the_oracle_at_any_shape_and_cut(case, dtype, chunk, seed):
    q, k, v, d_out, d_lse = inputs(case, dtype, seed)
    chosen = selection(case, q, k, seed)
    sizes = {"block_q": case.block_q, "block_k": case.block_k}
    config = XlaConfig(chunk_bytes=chunk, slice_keys=chunk)
    run = functools.partial(attend, **sizes, implementation="xla", config=config)
    with jax.default_matmul_precision("highest"):
        found = jax.jit(functools.partial(with_gradients, run))(q, k, v, *chosen, d_out, d_lse)
    assert_near_oracle(found, oracle(q, k, v, *chosen, d_out, d_lse, **sizes), Battery.tolerances[dtype])
