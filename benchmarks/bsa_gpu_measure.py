"""What benchmarks/bsa_gpu.py measures: each piece runs in a process of its own and yields records, plain dictionaries.

A record names what was measured and holds either its seconds per call, round by round, or the first line of an error.
The trusted come first, so that a kernel that fails, or takes the device's context with it, loses nothing but itself.
"""

import dataclasses
import functools
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from lcv_kernels.pallas import attend_blocks, select_blocks, to_blocks
from lcv_kernels.pallas.block_sparse_attention import mosaic_gpu, mosaic_gpu_schedule
from lcv_kernels.pallas.block_sparse_attention.mosaic_gpu_config import SHARED_MEMORY, shared_bytes
from lcv_kernels.pallas.block_sparse_attention.registry import Call, target_device

Record = dict[str, Any]
Grid = tuple[int, int, int]

BLOCK = (4, 4, 4)
TOKENS = 64
DTYPE = "bfloat16"
# Calls are queued until a round takes this many seconds: the host's part of a call of milliseconds is hidden.
SPAN = 0.1


@dataclasses.dataclass(frozen=True)
class Settings:
    """grids: (T, H, W) in tokens. rounds: of every timing, the XLA form's have two at most."""

    grids: tuple[Grid, ...]
    sparsities: tuple[float, ...]
    heads: int
    head_dim: int
    rounds: int


def random_inputs(key, grid, heads, head_dim):
    """q, k, v (1, N, heads, d) in block order, independent normal numbers: neighbours choose different blocks."""
    shape = (1, math.prod(grid), heads, head_dim)
    return tuple(jax.random.normal(k, shape, DTYPE) for k in jax.random.split(key, 3))


def correlated_inputs(key, grid, heads, head_dim):
    """The same with a smooth field under q and k, four blocks wide, as attention to a neighbourhood has it."""
    keys = jax.random.split(key, 4)
    coarse = tuple(max(2, side // (4 * block)) for side, block in zip(grid, BLOCK, strict=True))
    field = jax.random.normal(keys[0], (1, *coarse, heads, head_dim), DTYPE)
    field = jax.image.resize(field, (1, *grid, heads, head_dim), "linear").reshape(1, -1, heads, head_dim)
    q, k, v = (jax.random.normal(key, field.shape, DTYPE) for key in keys[1:])
    return tuple(to_blocks(x.astype(DTYPE), grid, BLOCK) for x in (field + 0.5 * q, field + 0.5 * k, v))


INPUTS = {"random": random_inputs, "correlated": correlated_inputs}


def attention(implementation, config, q, k, v, indices, counts):
    return attend_blocks(
        q, k, v, indices, counts, block_q=TOKENS, block_k=TOKENS, implementation=implementation, config=config
    )


def select(sparsity, q, k):
    return select_blocks(q, k, block_q=TOKENS, block_k=TOKENS, sparsity=sparsity)


def dense(q, k, v):
    implementation = "cudnn" if jax.default_backend() == "gpu" else "xla"
    return jax.nn.dot_product_attention(q, k, v, implementation=implementation)


def both_ways(attend):
    """(out, gradients) of attend(q, k, v, *rest) with the output as its own gradient."""

    def run(q, k, v, *rest):
        out, pull = jax.vjp(lambda *x: attend(*x, *rest), q, k, v)
        return out, pull(out)

    return run


def schedule(selection, keys, group):
    """The forward kernel's list of key blocks, for `group` neighbours."""
    rows, columns, valid = mosaic_gpu_schedule.pairs(*selection)
    blocks = {"num_rows": selection[0].shape[2], "num_columns": keys // TOKENS}
    return mosaic_gpu_schedule.merge(rows, columns, valid, **blocks, group=group)


def seconds_per_call(call: Callable[[], Any], rounds: int) -> list[float]:
    """Of `rounds` rounds of calls that are queued and waited for together; what compiles is not counted."""
    jax.block_until_ready(call())
    start = time.perf_counter()
    jax.block_until_ready(call())
    repeats = max(1, min(200, round(SPAN / max(time.perf_counter() - start, 1e-6))))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(repeats):
            last = call()
        jax.block_until_ready(last)
        times.append((time.perf_counter() - start) / repeats)
    return times


def timed(labels: Record, call: Callable[[], Any], rounds: int) -> Record:
    """The labels with `seconds`, or with `error`."""
    try:
        return labels | {"seconds": seconds_per_call(call, rounds)}
    except Exception as error:  # whatever a kernel dies of: the others go on
        return labels | {"error": _line(error)}


def rate(settings: Settings) -> Iterator[Record]:
    """bf16 FLOP/s of this device in one large product of random numbers."""
    size = 8192 if jax.default_backend() == "gpu" else 256
    a, b = (jax.random.normal(key, (size, size), DTYPE) for key in jax.random.split(jax.random.key(1)))
    product = jax.jit(jnp.matmul)
    found = timed({"what": "matmul"}, lambda: product(a, b), 2 * settings.rounds)
    if "seconds" in found:
        found["flop_per_s"] = 2 * size**3 / statistics.median(found["seconds"])
    yield found


def attentions(settings: Settings, grid: Grid, inputs: str) -> Iterator[Record]:
    """Dense, the selection, the XLA form, and where they run the kernels, at one size with one kind of inputs."""
    make = jax.jit(INPUTS[inputs], static_argnums=(1, 2, 3))
    q, k, v = jax.block_until_ready(make(jax.random.key(0), grid, settings.heads, settings.head_dim))
    size = {"tokens": q.shape[1], "heads": settings.heads, "head_dim": settings.head_dim, "inputs": inputs}
    for way, wrap in WAYS.items():
        call = functools.partial(jax.jit(wrap(dense)), q, k, v)
        yield timed(size | {"what": "dense", "way": way}, call, settings.rounds)
    reason = kernels_refuse(settings.head_dim, q.shape[1])
    if reason is not None:
        yield size | {"what": "refused", "reason": reason}
    selections = {}
    for sparsity in settings.sparsities:
        case = size | {"sparsity": sparsity}
        choose = functools.partial(jax.jit(functools.partial(select, sparsity)), q, k)
        yield timed(case | {"what": "selection"}, choose, settings.rounds)
        found = selections[sparsity] = choose()
        offsets = schedule(found, k.shape[1], 2).offsets
        pairs, loads = int(found.counts.sum()), int(offsets[..., -1].sum())
        share = pairs / found.counts.size / (k.shape[1] // TOKENS)
        yield case | {"what": "pairs", "pairs": pairs, "share": share, "used_per_load": pairs / max(1, loads)}
        if reason is None:
            make = jax.jit(functools.partial(schedule, keys=k.shape[1], group=2))
            yield timed(case | {"what": "schedule"}, functools.partial(make, found), settings.rounds)
    for implementation in ("xla",) if reason is not None else ("xla", "mosaic_gpu"):
        for sparsity in settings.sparsities:
            case = size | {"sparsity": sparsity, "implementation": implementation}
            if implementation == "mosaic_gpu":
                checked = agreement(case, q, k, v, selections[sparsity])
                yield checked
                if not checked.get("agrees"):
                    continue
            yield from _ways(case, q, k, v, selections[sparsity], settings.rounds)


WAYS = {"forward": lambda attend: attend, "both": both_ways}


def _ways(case: Record, q, k, v, selection, rounds: int) -> Iterator[Record]:
    """Forward, and forward and backward, of one implementation, with the selection given and included."""
    given = functools.partial(attention, case["implementation"], None)

    def included(q, k, v):
        return given(q, k, v, *select(case["sparsity"], q, k))

    rounds = min(rounds, 2) if case["implementation"] == "xla" else rounds
    forms = {"given": (given, selection), "included": (included, ())}
    for (way, wrap), (name, (form, rest)) in itertools.product(WAYS.items(), forms.items()):
        call = functools.partial(jax.jit(wrap(form)), q, k, v, *rest)
        yield timed(case | {"what": "sparse", "way": way, "selection": name}, call, rounds)


def agreement(case: Record, q, k, v, selection) -> Record:
    """Whether the kernels and the XLA form agree, outputs and gradients, to what bfloat16 allows."""
    case = case | {"what": "agreement"}
    try:
        ours, theirs = (
            jax.tree.leaves(jax.jit(both_ways(functools.partial(attention, name, None)))(q, k, v, *selection))
            for name in (case["implementation"], "xla")
        )
        pairs = (tuple(x.astype(jnp.float32) for x in pair) for pair in zip(ours, theirs, strict=True))
        errors = [float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel())) for a, b in pairs]
    except Exception as error:
        return case | {"error": _line(error)}
    named = dict(zip(("out", "dq", "dk", "dv"), errors, strict=True))
    return case | {"agrees": all(error < 1e-2 for error in errors), "relative_errors": named}


def tilings(head_dim: int, resident: int) -> Iterator[mosaic_gpu.Tiling]:
    """Every cut of a kernel for blocks of 64 tokens that fits into shared memory."""
    for consumers, stages in itertools.product((1, 2, 3), range(2, 7)):
        tiling = mosaic_gpu.Tiling(consumers, 64, stages)
        if shared_bytes(tiling, head_dim, resident) <= SHARED_MEMORY:
            yield tiling


def tuning(settings: Settings) -> Iterator[Record]:
    """Each kernel in each of its cuts at the first size, the other two as the rule cuts them; the rule's cut first."""
    grid, sparsity = settings.grids[0], settings.sparsities[0]
    reason = kernels_refuse(settings.head_dim, math.prod(grid))
    if reason is not None:
        yield {"what": "refused", "reason": reason}
        return
    q, k, v = jax.jit(correlated_inputs, static_argnums=(1, 2, 3))(
        jax.random.key(0), grid, settings.heads, settings.head_dim
    )
    selection = jax.jit(functools.partial(select, sparsity))(q, k)
    rule = mosaic_gpu.choose(q.shape[-1], TOKENS, TOKENS)
    for kernel, resident in (("forward", 1), ("dq", 2), ("dkv", 2)):
        wrap = WAYS["forward" if kernel == "forward" else "both"]
        for tiling in {getattr(rule, kernel): None} | dict.fromkeys(tilings(q.shape[-1], resident)):
            config = dataclasses.replace(rule, **{kernel: tiling})
            run = jax.jit(wrap(functools.partial(attention, "mosaic_gpu", config)))
            labels = {"what": "tuning", "kernel": kernel, "tiling": str(tiling)}
            yield timed(labels, functools.partial(run, q, k, v, *selection), settings.rounds)


def kernels_refuse(head_dim: int, tokens: int) -> str | None:
    """Why the kernels do not run here; None: they do."""
    platform, kind = target_device()
    return mosaic_gpu.refuses(Call(platform, kind, DTYPE, head_dim, TOKENS, TOKENS, tokens, 1), None)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:300]
