"""What devices send one another in one attention whose tokens are cut, read from the compiled programs.

    python -m benchmarks.context_parallel              # 480p x 93 and 720p x 189, 2 to 8 devices: some minutes
    python -m benchmarks.context_parallel --grid 4 8 16 --block 2 2 2 --parts 4 --heads 4

Nothing is run: the programs are compiled for virtual CPU devices. The result is
benchmarks/results/context_parallel.{json,md}.
"""

import argparse
import math
import pathlib

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks.common import RESULTS, Result, Row, write
from lcv_jax.ops.attention import DenseAttention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel.context import ContextAttention
from lcv_jax.parallel.hlo_collectives import read_collectives

CHANNELS = 128
DTYPE = jnp.float32  # CPU programs exchange bfloat16 as float32
SPARSITY = 0.9375
# (T, H, W) tokens: 480 x 832 x 93 frames, densely; 704 x 1280 x 189 frames, in blocks.
CASES = (((24, 30, 52), None), ((48, 44, 80), (4, 4, 4)))


def least(kind, share, parts):
    """Bytes that a device has to send, forward and then backward, for shares of q, k, v, out of `share` bytes each.

    Ulysses exchanges four shares all but what stays, and their gradients. A ring sends keys and values to all others,
    and backward again, and as much of their gradients comes back.
    """
    if kind == "ulysses":
        return 4 * share * (parts - 1) / parts, 4 * share * (parts - 1) / parts
    return 2 * share * (parts - 1), 4 * share * (parts - 1)


def row(kind, grid, block, parts, heads):
    axes = ("data", "context", "tensor")
    mesh = jax.make_mesh((1, parts, 1), axes, axis_types=(AxisType.Auto,) * 3, devices=jax.devices()[:parts])
    inner = BlockSparseAttention(block, block, SPARSITY) if block else DenseAttention()
    attention = ContextAttention(mesh, inner, kind)
    unit = math.prod(block or (1,)) * parts
    frames = block[0] if block else 1
    tokens = -(-frames * grid[1] * grid[2] // unit) * unit
    cut = NamedSharding(mesh, P(None, None, "context"))
    array = jax.ShapeDtypeStruct((1, grid[0] // frames, tokens, heads, CHANNELS), DTYPE, sharding=cut)

    def forward(q, k, v):
        return attention(q, k, v, grid_q=grid, grid_k=grid)

    def both(q, k, v, g):
        out, pull = jax.vjp(forward, q, k, v)
        return out, *pull(g)

    one = jax.jit(forward, out_shardings=cut).lower(*[array] * 3).compile()
    two = jax.jit(both, out_shardings=(cut,) * 4).lower(*[array] * 4).compile()
    sent = [sum(collective.total for collective in read_collectives(program)) for program in (one, two)]
    share = array.size * array.dtype.itemsize // parts
    minimum = sum(least(kind, share, parts))
    figures = {
        "minimum_mib": minimum / 2**20,
        "forward_mib": sent[0] / 2**20,
        "both_mib": sent[1] / 2**20,
        "share_mib": share / 2**20,
        "temporaries_mib": two.memory_analysis().temp_size_in_bytes / 2**20,
    }
    size = "x".join(map(str, grid))
    case = f"{kind}, {'sparse' if block else 'dense'}, {size} tokens on {parts}"
    return Row(case, sent[1] / minimum, minimum=1.0, figures=figures)


def main(arguments: list[str] | None = None, folder: pathlib.Path = RESULTS):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", type=int, nargs=3, help="tokens (T, H, W)")
    parser.add_argument("--block", type=int, nargs=3, help="block sparse attention, with --grid")
    parser.add_argument("--parts", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--heads", type=int, default=32)
    args = parser.parse_args(arguments)
    cases = ((tuple(args.grid), args.block and tuple(args.block)),) if args.grid else CASES
    rows = [
        row(kind, *case, parts, args.heads) for case in cases for kind in ("ulysses", "ring") for parts in args.parts
    ]
    write(
        Result(
            "context_parallel",
            "Attention with its tokens cut over devices",
            over="bytes that a device sends, forward and backward, over the least that the method has to send",
            rows=rows,
            minimum="every share once to where it is needed, gradients too",
            notes=f"One layer, batch 1, {args.heads} heads of {CHANNELS}, {jnp.dtype(DTYPE).name}; in bfloat16 half of "
            "everything is sent, but for the gradients that go around a ring, which stay float32. They travel twice "
            "more than they have to, to be on their way while the next are computed. share_mib is q, or k, of one "
            "device; temporaries_mib is what XLA's CPU compiler takes.",
        ),
        folder,
    )


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 8)
    main()
