"""The DiT on meshes of 8 devices against one device, run by test_sharded_dit.py in a process that has them.

Prints JSON: by mesh and case, the largest difference of outputs, and of gradients over the gradient's largest value.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.zoo import abstract_params
from lcv_jax.ops.attention import dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.context import ContextAttention
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING, TRAINING

CONFIG = DiTConfig(depth=2, hidden_size=64, num_heads=8, caption_channels=32, adaln_tembed_dim=32)
SPARSE = BlockSparseAttention((2, 2, 2), (2, 2, 2), sparsity=0.6)
# By name: mesh, rules, and the kind of context parallelism. Tokens: 4 frames of 6 x 6, blocks of 8, so that slabs of 36
# tokens and of 9 blocks of 8 do not divide into 4 or 8 parts.
MESHES = {
    "fsdp=8": ("fsdp=8", TRAINING, None),
    "fsdp=8 sampling": ("fsdp=8", SAMPLING, None),
    "context=8 ring": ("context=8", TRAINING, "ring"),
    "context=8 ulysses": ("context=8", TRAINING, "ulysses"),
    "data=2,tensor=4": ("data=2,tensor=4", TRAINING, None),
    "fsdp=2,context=2,tensor=2": ("fsdp=2,context=2,tensor=2", TRAINING, None),
    "fsdp=2,context=2,tensor=2 sampling": ("fsdp=2,context=2,tensor=2", SAMPLING, "ring"),
}


def params():
    """Random everywhere: the initial zeros of the modulation would hide most of the model."""
    leaves, tree = jax.tree.flatten(abstract_params(CONFIG, FLOAT32))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return jax.tree.unflatten(tree, [0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def inputs(num_cond):
    key = jax.random.split(jax.random.key(1), 4)
    latents = jax.random.normal(key[0], (2, 4, 12, 12, 16))
    t = jax.random.uniform(key[1], (2, 4)).at[:, :num_cond].set(0.0)
    text = jax.random.normal(key[2], (2, 5, 32))
    return latents, t, text, jnp.arange(5) < jnp.array([[3], [5]])


def model(attention, on=None, kind=None):
    if on is None:
        return DiT(CONFIG, FLOAT32, attention)
    r = on.rules
    cut = {"batch": r.batch, "tokens": r.tokens, "heads": r.heads}
    self_attention = ContextAttention(on.mesh, attention, kind=kind, **cut)
    return DiT(CONFIG, FLOAT32, self_attention, on.attention(dense_attention), on)


def case(dit, num_cond):
    """Output, gradients of parameters and latents, and the output with the condition frames cached."""

    def run(params, latents, t, text, mask):
        def loss(params, latents):
            out = dit.apply({"params": params}, latents, t, text, mask, num_cond=num_cond)
            return jnp.sin(3 * out).sum(), out

        (_, out), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, latents)
        cache = dit.apply({"params": params}, latents[:, :num_cond], method="condition").cache
        n = num_cond
        cached = dit.apply({"params": params}, latents[:, n:], t[:, n:], text, mask, cache=cache)
        return (out, cached), grads

    return run


CASES = {"dense": (dense_attention, 1), "sparse": (SPARSE, 2)}


def main(names):
    weights = params()
    expected = {
        name: jax.device_get(jax.jit(case(model(attention), n))(weights, *inputs(n)))
        for name, (attention, n) in CASES.items()
    }
    report = {}
    for name in names:
        text, rules, kind = MESHES[name]
        on = MeshPlacement(MeshConfig.parse(text).make(), rules)
        cut = jax.tree.map(jax.device_put, weights, on.params(CONFIG, abstract_params(CONFIG, FLOAT32)))
        for case_name, (attention, n) in CASES.items():
            found = jax.device_get(jax.jit(case(model(attention, on, kind), n))(cut, *inputs(n)))
            outs, grads = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), found, expected[case_name])
            sizes = jax.tree.map(lambda a: float(np.abs(a).max()), expected[case_name][1])
            relative = jax.tree.map(lambda d, s: d / max(s, 1e-3), grads, sizes)
            report[f"{name}, {case_name}"] = [max(outs), max(jax.tree.leaves(relative))]
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])
