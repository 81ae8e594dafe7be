"""Block sparse attention's XLA form: compiled FLOPs and memory at real sizes, time over that of plain products.

    python -m benchmarks.bsa_xla

The compiled part takes seconds and no memory to speak of; the timed part runs 6,144 tokens for about a minute.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import Result, Row, alternate, ratio, seconds, write
from lcv_jax.parallel.hlo import count_flops
from lcv_kernels.pallas import XlaConfig, attend_blocks, block_sparse_attention, select_blocks

HEADS, CHANNELS, BLOCK = 32, 128, (4, 4, 4)
# Tokens of 448 x 896 pixels and of 704 x 1280 pixels with twice the frames.
GRIDS = {37_632: (24, 28, 56), 168_960: (48, 44, 80)}
TOKENS, TIMED_HEADS, KEPT = 6_144, 8, 0.25
CHUNKS, SQUARE = (1, 4, 16, 64, 256), 2_048  # MiB; the side of the plain matrix product


def with_gradients(attend):
    """(q, k, v, g) -> out and the gradients of q, k and v."""

    def run(q, k, v, g):
        out, pull = jax.vjp(attend, q, k, v)
        return out, pull(g)

    return run


def compiled_rows(tokens, sparsity):
    """FLOPs over the selected pairs' products, and temporaries over arguments and results, forward and backward."""
    grid = GRIDS[tokens]
    attend = functools.partial(
        block_sparse_attention,
        grid_q=grid,
        grid_k=grid,
        block_q=BLOCK,
        block_k=BLOCK,
        sparsity=sparsity,
        implementation="xla",
    )
    x = jax.ShapeDtypeStruct((1, tokens, HEADS, CHANNELS), jnp.float32)
    size = math.prod(BLOCK)
    product = 2 * tokens * int((1 - sparsity) * (tokens // size)) * size * CHANNELS * HEADS
    for name, run, arguments, products in (
        ("forward", attend, (x,) * 3, 2),
        ("forward and backward", with_gradients(attend), (x,) * 4, 7),
    ):
        program = jax.jit(run).lower(*arguments).compile()
        flops, memory = count_flops(program).total, program.memory_analysis()
        case = f"{tokens:,} tokens, sparsity {sparsity}, {name}"
        figures = {"compiled_TFLOP": flops / 1e12, "selected_TFLOP": products * product / 1e12}
        yield Row(f"FLOPs, {case}", flops / (products * product), 1.0, 1.3, figures)
        held = memory.argument_size_in_bytes + memory.output_size_in_bytes
        figures = {
            "temporary_GiB": memory.temp_size_in_bytes / 2**30,
            "held_GiB": held / 2**30,
            "dense_logits_GiB": 4 * tokens**2 * HEADS / 2**30,
        }
        yield Row(f"memory, {case}", memory.temp_size_in_bytes / held, 0.0, 2.0, figures)


def timed_rows(rounds=5):
    """Seconds over one plain matrix product of as many FLOPs, for chunks of several sizes."""
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, g = (jax.random.normal(key, (1, TOKENS, TIMED_HEADS, CHANNELS)) for key in keys)
    size = math.prod(BLOCK)
    chosen = select_blocks(q, k, block_q=size, block_k=size, sparsity=1 - KEPT)
    attend = functools.partial(attend_blocks, block_q=size, block_k=size, implementation="xla")
    check(attend, q, k, v, g, chosen)
    square = jax.random.normal(jax.random.key(1), (SQUARE, SQUARE))
    plain = functools.partial(jax.jit(jnp.matmul), square, square)
    product = 2 * TOKENS * KEPT * TOKENS * CHANNELS * TIMED_HEADS
    for name, wrap, arguments, products in (
        ("forward", lambda f: f, (q, k, v), 2),
        ("forward and backward", with_gradients, (q, k, v, g), 7),
    ):
        programs = {"dense": jax.jit(wrap(jax.nn.dot_product_attention))}
        for mebibytes in CHUNKS:
            sparse = functools.partial(attend, config=XlaConfig(chunk_bytes=mebibytes << 20))
            programs[f"{mebibytes} MiB"] = jax.jit(wrap(lambda q, k, v, f=sparse: f(q, k, v, *chosen)))
        candidates = {n: functools.partial(f, *arguments) for n, f in programs.items()}
        times = alternate({"plain": plain, **candidates}, rounds=rounds)
        share = 2 * SQUARE**3 / (products * product)
        for mebibytes in CHUNKS:
            chunk = f"{mebibytes} MiB"
            figures = {"dense_s": seconds(times)["dense_s"], "sparse_s": seconds(times)[f"{chunk}_s"]}
            figures["sparse_over_dense"] = ratio(times, chunk, "dense")
            case = f"time, {TOKENS:,} tokens, a quarter of the keys, {name}, chunks of {chunk}"
            goal = 2.0 if mebibytes == 16 else None
            yield Row(case, ratio(times, chunk, "plain") * share, 1.0, goal, figures)


def check(attend, q, k, v, g, chosen):
    """The sparse form, before it is timed, against the dense oracle, on the first head."""
    q, k, v, g = (x[:, :, :1] for x in (q, k, v, g))
    chosen = [x[:, :1] for x in chosen]
    results = (
        jax.jit(with_gradients(lambda q, k, v, n=name: attend(q, k, v, *chosen, implementation=n)))(q, k, v, g)
        for name in ("xla", "reference")
    )
    for one, other in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)


def main():
    compiled = [
        row for tokens, s in ((37_632, 0.9375), (37_632, 0.875), (168_960, 0.9375)) for row in compiled_rows(tokens, s)
    ]
    write(
        Result(
            "bsa_xla",
            "Block sparse attention, the XLA form",
            over="compiled FLOPs over those of the selected pairs; temporaries over arguments and results; "
            "seconds over a plain matrix product of as many FLOPs",
            rows=(*compiled, *timed_rows()),
            minimum="two products of the selected pairs forward and five backward; no temporaries; the plain product",
            notes="Float32, blocks of 4 x 4 x 4 tokens, heads of 128 channels: 32 where compiled, 8 where timed. The "
            "compiled rows are of `block_sparse_attention`, regrouping and selection included; the timed rows of "
            "`attend_blocks`. Dense is `jax.nn.dot_product_attention`. 16 MiB is what a CPU gets without a config.",
        )
    )


if __name__ == "__main__":
    main()
