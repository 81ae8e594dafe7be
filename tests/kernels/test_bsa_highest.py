"""The highest of a row without a sort: against a stable sort, for whatever stands in a row, and every count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_kernels.pallas.block_sparse_attention.highest import highest
from traces import equations

# Among them the ends of the range, what is next to 0 and to 1, and the smallest of the normal numbers.
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 3.4e38, -3.4e38, 1.2e-38, -1.2e-38, 1.0, 1.0000001, -1.0)


@functools.partial(jax.jit, static_argnames="count")
def by_search(x, count):
    return highest(x, count)


def by_sort(x, count):
    """NumPy, which sorts NaN to the end and takes 0 and -0 for equal, as the rule says."""
    return np.sort(np.argsort(-x, -1, kind="stable")[..., :count], -1)


def assert_same(x, count):
    found = by_search(x, count)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, by_sort(x, count))


def rows(n, seed):
    """Rows of n: independent, correlated, of few values, constant, and with all that is special."""
    rng = np.random.default_rng(seed)
    made = (
        rng.normal(size=(2, n)),
        np.cumsum(rng.normal(size=(1, n)), -1) * 1e-3 + 5,
        rng.integers(0, 3, (2, n)),
        np.full((1, n), -2.5),
        rng.choice(SPECIAL, (2, n)),
        np.where(rng.random((1, n)) < 0.9, -np.inf, rng.normal(size=(1, n))),
    )
    return np.concatenate(made).astype(np.float32)


@pytest.mark.smoke
@pytest.mark.parametrize(("n", "counts"), [(1, (1,)), (8, range(1, 9)), (33, (1, 17, 31, 32, 33))])
def test_equals_a_stable_sort_for_every_count(n, counts):
    for count in counts:
        assert_same(rows(n, count), count)


@settings(max_examples=6, deadline=None)
@given(n=st.sampled_from((5, 31, 32, 64, 100, 588)), share=st.floats(0, 1), seed=st.integers(0, 2**16))
def test_equals_a_stable_sort(n, share, seed):
    assert_same(rows(n, seed), max(1, int(share * n)))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(width=32, allow_subnormal=False) | st.sampled_from(SPECIAL), min_size=9, max_size=9))
def test_equals_a_stable_sort_for_drawn_numbers(row):
    assert_same(np.asarray(row, np.float32)[None], 4)


def test_numbers_that_are_not_normal_are_what_the_backend_takes_them_for():
    """Compared as `lax.sort` compares them: XLA's CPU programs take them for 0."""
    x = np.asarray([[0.0, 1e-45, -1e-45, 1e-40, -1e-40, 2e-45]], np.float32)
    places = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    order = jax.jit(lambda x: jax.lax.sort((-x, places), num_keys=1, is_stable=True)[1])(x)
    for count in range(1, 6):
        np.testing.assert_array_equal(by_search(x, count), np.sort(np.asarray(order)[:, :count], -1))


def test_any_axes_may_stand_before_the_row():
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 50)).astype(np.float32)
    assert_same(x, 7)


def test_nothing_is_sorted():
    names = {
        e.primitive.name for e in equations(jax.make_jaxpr(functools.partial(highest, count=5))(jnp.zeros((3, 40))))
    }
    assert not names & {"sort", "top_k", "scatter", "scatter-add"}
