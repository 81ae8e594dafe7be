"""Which blocks are kept: the published truncation, ties, both rules together, and what is refused."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_kernels.pallas import block_means, select_blocks, select_by_means
from lcv_kernels.pallas.block_sparse_attention import selection
from traces import equations

ONE = {"block_q": 1, "block_k": 1}


def scored(*scores):
    """q and k of one head whose blocks of one token have these scores, (B, N, 1, 1)."""
    return jnp.ones((1, 1, 1, 1)), jnp.asarray(scores, jnp.float32).reshape(1, -1, 1, 1)


def kept(found) -> list[int]:
    indices, counts = (np.asarray(x) for x in found)
    return indices[0, 0, 0, : counts[0, 0, 0]].tolist()


@pytest.mark.parametrize(
    ("blocks", "sparsity", "count"),
    [
        (10, 0.9, 0),
        (5, 0.8, 0),
        (588, 0.9375, 36),
        (2640, 0.9375, 165),
        (16, 0.5, 8),
        (7, 0.0, 7),
        (7, 1.0, 0),
        (4, 0.875, 0),
    ],
)
def test_the_count_is_cut_off_in_double_precision(blocks, sparsity, count):
    assert selection.kept_blocks(blocks, sparsity) == count
    indices, counts = select_blocks(*scored(*range(blocks)), **ONE, sparsity=sparsity)
    assert indices.shape == (1, 1, 1, count)
    assert counts.tolist() == [[[count]]]


@pytest.mark.parametrize("rule", [{"sparsity": 0.5}, {"sparsity": None, "cdf": 0.8}, {"sparsity": 1.0}])
def test_averages_taken_in_parts_choose_the_same(rule):
    q, k = jax.random.normal(jax.random.key(0), (2, 2, 24, 3, 4))
    expected = select_blocks(q, k, block_q=4, block_k=3, **rule)
    means_k = jnp.concatenate([block_means(part, 3) for part in jnp.split(k, 2, 1)], 2)
    parts = [select_by_means(block_means(part, 4), means_k, **rule) for part in jnp.split(q, 3, 1)]
    for one, *others in zip(expected, *parts, strict=True):
        np.testing.assert_array_equal(one, np.concatenate(others, 2))


def test_the_highest_are_kept_in_ascending_order_and_the_first_of_equals():
    assert kept(select_blocks(*scored(1, 5, -2, 4, 0), **ONE, sparsity=0.4)) == [0, 1, 3]
    assert kept(select_blocks(*scored(3, 1, 3, 3), **ONE, sparsity=0.5)) == [0, 2]


def test_scores_are_products_of_block_averages():
    q = jnp.asarray([1.0, 3.0]).reshape(1, 2, 1, 1)
    k = jnp.asarray([9.0, -9.0, 1.0, 1.0, 0.0, 4.0]).reshape(1, 6, 1, 1)  # averages 0, 1, 2
    assert kept(select_blocks(q, k, block_q=2, block_k=2, sparsity=0.6)) == [2]
    assert kept(select_blocks(-q, k, block_q=2, block_k=2, sparsity=0.6)) == [0]


@pytest.mark.parametrize(
    ("sparsity", "cdf", "expected"),
    [
        (None, 0.65, [1]),  # 0.6, then 0.9 crosses
        (None, 0.55, []),  # the first crosses already
        (None, 0.95, [1, 3]),
        (0.75, 0.55, [1]),  # the larger count, from sparsity
        (0.75, 0.95, [1, 3]),  # and from cdf
        (0.0, 0.55, [0, 1, 2, 3]),
    ],
)
def test_cdf_keeps_what_stays_under_it(sparsity, cdf, expected):
    found = select_blocks(*scored(*np.log([0.04, 0.6, 0.06, 0.3])), **ONE, sparsity=sparsity, cdf=cdf)
    assert found.indices.shape[-1] == 4
    assert kept(found) == expected


def test_cdf_divides_scores_by_the_root_of_the_channels():
    q, k = jnp.ones((1, 1, 1, 4)), jnp.log(jnp.asarray([0.6, 0.3, 0.1])).reshape(1, 3, 1, 1) * 2 / 4
    assert kept(select_blocks(q, k * jnp.ones(4), **ONE, sparsity=None, cdf=0.65)) == [0]


@settings(max_examples=10, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 9),
    sparsity=st.none() | st.floats(0, 1),
    cdf=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_rows_are_ascending_distinct_and_in_range(rows, columns, sparsity, cdf, seed):
    rng = np.random.default_rng(seed)
    q, k = (jnp.asarray(rng.normal(size=(2, n * 2, 2, 3)), jnp.float32) for n in (rows, columns))
    for rule in ({"sparsity": sparsity, "cdf": cdf}, {"sparsity": sparsity or 0.3}):
        indices, counts = (np.asarray(x) for x in select_blocks(q, k, block_q=2, block_k=2, **rule))
        assert indices.dtype == counts.dtype == np.int32
        assert counts.shape == (2, 2, rows)
        assert counts.min() >= selection.kept_blocks(columns, rule["sparsity"], cdf)
        assert not indices.size or (indices.min() >= 0 and indices.max() < columns)
        for row in np.ndindex(counts.shape):
            first = indices[row][: counts[row]]
            assert (np.diff(first) > 0).all()
            means = (
                q[row[0], :, row[1]].reshape(rows, 2, 3).mean(1),
                k[row[0], :, row[1]].reshape(columns, 2, 3).mean(1),
            )
            scores = np.asarray(means[1] @ means[0][row[2]])
            rest = np.delete(scores, first)
            assert not len(first) or not len(rest) or scores[first].min() >= rest.max() - 1e-5


@pytest.mark.parametrize("budget", [1, 4 * 2 * 3 * 2 * 5])  # one query block at a time, and two of three
def test_many_scores_are_taken_in_chunks(monkeypatch, budget):
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(2, n, 3, 4)), jnp.float32) for n in (6, 10))
    for rule in ({"sparsity": 0.5}, {"sparsity": None, "cdf": 0.5}):
        select = functools.partial(select_blocks, block_q=2, block_k=2, **rule)
        at_once = select(q, k)
        with monkeypatch.context() as patch:
            patch.setattr(selection, "SCORES_BUDGET", budget)
            assert "scan" in str(jax.make_jaxpr(select)(q, k))
            in_chunks = select(q, k)
        for one, other in zip(at_once, in_chunks, strict=True):
            np.testing.assert_array_equal(one, other)


def test_averages_and_scores_are_float32_and_exact_whatever_the_input():
    select = functools.partial(select_blocks, block_q=2, block_k=2, sparsity=0.5)
    q = jax.ShapeDtypeStruct((1, 8, 1, 4), jnp.bfloat16)
    (product,) = (e for e in equations(jax.make_jaxpr(select)(q, q).jaxpr) if e.primitive.name == "dot_general")
    assert {x.aval.dtype for x in (*product.invars, *product.outvars)} == {jnp.dtype("float32")}
    assert set(product.params["precision"]) == {jax.lax.Precision.HIGHEST}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"sparsity": None}, "sparsity and cdf are both None"),
        ({"sparsity": 1.5}, r"sparsity=1\.5: expected a number from 0 to 1"),
        ({"sparsity": "half"}, "sparsity='half': expected a number from 0 to 1"),
        ({"sparsity": math.nan}, "sparsity=nan"),
        ({"cdf": -0.1}, r"cdf=-0\.1: expected"),
        ({"block_q": 3}, "q has 8 tokens: expected a multiple of its block, 3 tokens"),
        ({"block_k": 5}, "k has 16 tokens: expected a multiple of its block, 5 tokens"),
        ({"block_k": 0}, "its block, 0 tokens"),
        ({"k": jnp.zeros((1, 16, 2, 5))}, r"q \(1, 8, 2, 4\) and k \(1, 16, 2, 5\): expected \(B, N, heads, d\)"),
        ({"k": jnp.zeros((1, 16, 8))}, r"and k \(1, 16, 8\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    call = {"q": jnp.zeros((1, 8, 2, 4)), "k": jnp.zeros((1, 16, 2, 4)), "block_q": 2, "block_k": 4, "sparsity": 0.5}
    call |= changes
    with pytest.raises(ValueError, match=match):
        select_blocks(call.pop("q"), call.pop("k"), **call)


def test_a_cdf_of_one_keeps_every_block():
    """Whatever float32 makes of the sum of the chances: of some of these rows it is more than 1."""
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(2 * rng.normal(size=(40, n, 1, 4)), jnp.float32) for n in (4, 5))
    counts = select_blocks(q, k, **ONE, sparsity=None, cdf=1.0).counts
    assert np.asarray(counts).min() == 5
