import jax.numpy as jnp
import numpy as np
import pytest

from lcv_jax.ops.rope import Rope, axis_dims, rope, rope_angles, rotate


def test_channels_split_as_published():
    assert axis_dims(128) == (44, 42, 42)
    assert axis_dims(32) == (12, 10, 10)


@pytest.mark.parametrize("case", ["grid0", "grid1", "grid2"])
def test_rotation_equals_the_official_one(goldens, case):
    g = goldens("rope")
    grid = tuple(int(n) for n in g[case])
    q, k = (jnp.asarray(g[f"{case}_{n}"]).swapaxes(1, 2) for n in "qk")
    angles = rope_angles(grid, q.shape[-1])
    np.testing.assert_allclose(np.repeat(angles, 2, axis=-1), g[f"{case}_freqs"], atol=1e-5)
    tables = rope(grid, q.shape[-1])
    np.testing.assert_allclose(rotate(q, tables).swapaxes(1, 2), g[f"{case}_q_rot"], atol=1e-5)
    np.testing.assert_allclose(rotate(k, tables).swapaxes(1, 2), g[f"{case}_k_rot"], atol=1e-5)


def test_scores_depend_on_relative_positions_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 32)), jnp.float32) for _ in range(2))
    tables = rope((8, 1, 1), 32)

    def score(i, j):
        at = [Rope(*(table[n : n + 1] for table in tables)) for n in (i, j)]
        return float((rotate(q, at[0]) * rotate(k, at[1])).sum())

    assert score(1, 3) == pytest.approx(score(4, 6), abs=1e-5)
    assert score(1, 3) != pytest.approx(score(3, 1), abs=1e-3)


def test_rotation_is_computed_in_float32():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(1, 64, 1, 32)), jnp.bfloat16)
    tables = rope((64, 1, 1), 32)
    assert rotate(x, tables).dtype == jnp.bfloat16
    exact = rotate(x.astype(jnp.float32), tables)
    np.testing.assert_array_equal(rotate(x, tables), exact.astype(jnp.bfloat16))
