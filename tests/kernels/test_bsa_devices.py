"""Several devices, in a process of their own: shards made by hand, and shards that the compiler makes."""

import textwrap

import pytest

import devices

pytestmark = pytest.mark.slow


def test_shard_map_over_two_devices():
    battery = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/kernels/test_bsa_battery.py")
    devices.run(*battery, "-k", "shard_map", devices=2)


def test_batch_and_heads_stay_where_they_are():
    """Of arrays cut over batch and heads nothing is moved, forward or backward, and the result is the same."""
    program = """
        import functools, math, re
        import jax, jax.numpy as jnp, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec as P
        from lcv_kernels.pallas import block_sparse_attention

        grid = (4, 4, 8)
        attend = functools.partial(
            block_sparse_attention, grid_q=grid, grid_k=grid, block_q=(2, 2, 4), block_k=(2, 2, 2), sparsity=0.7
        )

        @jax.jit
        def run(q, k, v, g):
            out, pull = jax.vjp(attend, q, k, v)
            return out, pull(g)

        arrays = jax.random.normal(jax.random.key(0), (4, 2, math.prod(grid), 4, 8))
        auto = jax.sharding.AxisType.Auto
        mesh = jax.make_mesh((2, 2), ("data", "tensor"), axis_types=(auto, auto))
        cut = [jax.device_put(x, NamedSharding(mesh, P("data", None, "tensor"))) for x in arrays]
        text = run.lower(*cut).compile().as_text()
        moved = re.findall(r"(?:all-gather|all-to-all|all-reduce|collective-permute)[.\\w-]*\\(", text)
        assert not moved, moved
        for one, other in zip(jax.tree.leaves(run(*cut)), jax.tree.leaves(run(*arrays)), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
            assert one.sharding.shard_shape(one.shape) == (1, math.prod(grid), 2, 8), one.sharding
    """
    devices.run("-c", textwrap.dedent(program), devices=4)
