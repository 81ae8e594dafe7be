"""Choosing the highest-scored blocks: the search for the threshold against a stable sort and top_k.

    python -m benchmarks.bsa_selection                 # 37,632 tokens, 8 heads; 168,960 tokens, 2 heads: half a minute
    python -m benchmarks.bsa_selection --heads 32      # as a GPU has them
    python -m benchmarks.bsa_selection --blocks 64

The result is benchmarks/results/bsa_selection.{json,md}. All three are given the scores and return ascending places;
they are compared before they are timed.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import RESULTS, Result, Row, alternate, ratio, seconds, write
from lcv_kernels.pallas.block_sparse_attention.highest import highest

# Blocks of 64 tokens, and heads where none are asked for, which scores of a few hundred MB need.
CASES = {588: 8, 2_640: 2}
KEPT = 1 / 16
CHANNELS = 128


def by_sort(scores, count):
    places = jax.lax.broadcasted_iota(jnp.int32, scores.shape, scores.ndim - 1)
    _, order = jax.lax.sort((-scores, places), num_keys=1, is_stable=True)
    return jnp.sort(order[..., :count], -1)


def by_top_k(scores, count):
    return jnp.sort(jax.lax.top_k(scores, count)[1], -1)


FORMS = {"search": highest, "sort": by_sort, "top_k": by_top_k}


def product(means_q, means_k):
    return jnp.einsum("bhnd,bhkd->bhnk", means_q, means_k, precision=jax.lax.Precision.HIGHEST)


def row(blocks, heads, rounds):
    """One row: as many query blocks as key blocks, the scores made as `select_blocks` makes them."""
    means = (jax.random.normal(key, (1, heads, blocks, CHANNELS)) for key in jax.random.split(jax.random.key(0)))
    make = functools.partial(jax.jit(product), *means)
    scores = jax.block_until_ready(make())
    count = max(1, int(KEPT * blocks))
    calls = {name: functools.partial(jax.jit(form, static_argnums=1), scores, count) for name, form in FORMS.items()}
    first = calls["search"]()
    for call in calls.values():
        np.testing.assert_array_equal(first, call())
    times = alternate({**calls, "scores": make}, rounds=rounds)
    figures = seconds(times) | {"search_over_top_k": ratio(times, "search", "top_k")}
    case = f"{blocks} x {blocks} blocks, heads: {heads}, {count} kept"
    return Row(case, ratio(times, "search", "sort"), goal=0.25, figures=figures)


def main(arguments: list[str] | None = None, folder: pathlib.Path = RESULTS):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=list(CASES))
    parser.add_argument("--heads", type=int, help="by default what a CPU does in a second or two")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args(arguments)
    write(
        Result(
            "bsa_selection",
            "Choosing the highest-scored blocks",
            over="the search's seconds over those of a stable sort of (score, place)",
            rows=[row(blocks, args.heads or CASES.get(blocks, 1), args.rounds) for blocks in args.blocks],
            notes="Independent normal scores, float32, given to all; scores_s is the product that makes them.",
        ),
        folder,
    )


if __name__ == "__main__":
    main()
