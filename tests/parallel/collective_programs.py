"""Programs whose collectives are known by hand, compiled on 8 virtual devices; run by test_hlo_collectives.py.

Prints, as JSON, what `read_collectives` found in each: [kind, operand bytes, sent bytes, times, axes] a collective.
"""

import json

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lcv_jax.parallel.hlo_collectives import read_collectives

MESH = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
SIZES = {"data": 2, "fsdp": 4}


def found(function, spec, shape=(8, 64), dtype=jnp.float32, out=None):
    """Collectives of `function`, compiled for one argument of `shape` that is cut as `spec` says."""
    argument = jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, spec))
    out = None if out is None else NamedSharding(MESH, out)
    program = jax.jit(function, out_shardings=out).lower(argument).compile()
    return [[c.kind, c.operand, c.sent, c.times, c.axes(SIZES)] for c in read_collectives(program)]


def mapped(function, spec, out=None):
    """The same of a function of one device's shard."""
    run = jax.shard_map(function, mesh=MESH, in_specs=spec, out_specs=spec if out is None else out, check_vma=False)
    return found(run, spec)


def looped(step, count):
    """`step` run `count` times on what it returns."""
    return lambda x: lax.fori_loop(0, count, lambda _, x: step(x), x)


RING = [(i, (i + 1) % 4) for i in range(4)]
ROWS = P("fsdp", None)


def layers(x, weights):
    return lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]


def fsdp():
    """Weights (6, 32, 32) cut over fsdp, rows over both: gathered layer by layer, their gradients scattered."""
    weights = jax.ShapeDtypeStruct((6, 32, 32), jnp.float32, sharding=NamedSharding(MESH, P(None, "fsdp")))
    x = jax.ShapeDtypeStruct((4096, 32), jnp.float32, sharding=NamedSharding(MESH, P(("data", "fsdp"))))
    loss = jax.grad(lambda weights, x: layers(x, weights).sum())
    program = jax.jit(loss, out_shardings=weights.sharding).lower(weights, x).compile()
    return [[c.kind, c.operand, c.sent, c.times, c.axes(SIZES)] for c in read_collectives(program)]


PROGRAMS = {
    "all-gather": lambda: mapped(lambda x: lax.all_gather(x, "fsdp", tiled=True), ROWS, P()),
    "all-reduce": lambda: mapped(lambda x: lax.psum(x, "fsdp"), P(None, "fsdp"), P()),
    "all-reduce of both axes": lambda: mapped(lambda x: lax.psum(x, ("data", "fsdp")), P(("data", "fsdp")), P()),
    "reduce-scatter": lambda: mapped(lambda x: lax.psum_scatter(x, "fsdp", tiled=True), P(), ROWS),
    "all-to-all": lambda: mapped(
        lambda x: lax.all_to_all(x, "fsdp", split_axis=1, concat_axis=0, tiled=True), ROWS, P(None, "fsdp")
    ),
    "collective-permute": lambda: mapped(lambda x: lax.ppermute(x, "fsdp", RING), ROWS),
    "a ring of three steps": lambda: mapped(looped(lambda x: lax.ppermute(x + 1, "fsdp", RING), 3), ROWS),
    "two of a tuple": lambda: mapped(lambda x: sum(lax.psum((x, 2 * x[:1]), "data")), P("data"), P()),
    "nothing": lambda: found(jnp.tanh, ROWS, out=ROWS),
    "layers": fsdp,
    "bytes of a narrow type": lambda: found(lambda x: x, ROWS, dtype=jnp.int8, out=P()),
}


if __name__ == "__main__":
    print(json.dumps({name: program() for name, program in PROGRAMS.items()}))
