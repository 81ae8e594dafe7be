"""The table of benchmarks/bsa_gpu.py, from whatever records there are."""

import statistics
from collections.abc import Iterable, Iterator, Mapping

from benchmarks.bsa_gpu_measure import TOKENS, Record
from benchmarks.common import Result, Row

# What is asked of 93.75 % at 168,960 tokens, 32 heads, the selection included: speed-ups over dense attention.
GOALS = {"forward": 1 / 12, "backward": 1 / 8}
GOAL_AT = {"tokens": 168_960, "heads": 32, "sparsity": 0.9375, "selection": "included", "implementation": "mosaic_gpu"}
# Products of a pair of tokens, two FLOP a channel each: the least, although the kernels compute two of them twice.
PRODUCTS = {"forward": 2, "backward": 5}


def result(name: str, records: Iterable[Record], driver: str) -> Result:
    records = list(records)
    peak = next((record["flop_per_s"] for record in records if "flop_per_s" in record), None)
    notes = [f"{driver}."]
    if peak is not None:
        notes.append(f"A bf16 product of random numbers ran at {peak / 1e12:.1f} TFLOP/s.")
    notes.append("Goal of the forward kernel: 500 TFLOP/s. backward is both ways less forward.")
    notes += remarks(records)
    return Result(
        name,
        "Block sparse attention against dense attention",
        over="ours / dense, median seconds (tuning: over the rule's cut; selection and schedule: over dense forward)",
        minimum="the share of pairs of blocks that is computed",
        rows=[*rows(records, peak), *tuning_rows(records)],
        notes=" ".join(notes),
    )


def remarks(records: list[Record]) -> Iterator[str]:
    """What failed, what was refused, and commands' ends, each a sentence."""
    for record in records:
        case = " ".join(f"{key} {value}" for key, value in record.items() if isinstance(value, str | int | float))
        if record.get("what") == "command":
            yield f"{record['piece']}: {record['outcome']}."
        elif record.get("what") == "agreement" and not record.get("agrees") and "error" not in record:
            yield f"NOT TIMED, the kernels disagree with the XLA form: {case}, {record['relative_errors']}."
        elif "error" in record:
            yield f"FAILED: {case}."
    for reason in dict.fromkeys(record["reason"] for record in records if record.get("what") == "refused"):
        yield f"The kernels are not measured: {reason}."


def rows(records: list[Record], peak: float | None) -> Iterator[Row]:
    """One row for every sparse timing whose dense one is there."""
    times = {_key(record): statistics.median(record["seconds"]) for record in records if "seconds" in record}
    pairs = {_key(record): record for record in records if record.get("what") == "pairs"}
    for record in records:
        size = {key: record.get(key) for key in ("tokens", "heads", "head_dim", "inputs")}
        case = size | {"sparsity": record.get("sparsity")}
        what = record.get("what")
        if what in ("selection", "schedule") and "seconds" in record:
            took, whole = times[_key(record)], times.get(_key(size | {"what": "dense", "way": "forward"}))
            if whole is not None:
                yield Row(f"{_title(case)}, {what} alone", took / whole, figures=_ms(took, whole))
        if what != "sparse" or "seconds" not in record:
            continue
        found = pairs[_key(case | {"what": "pairs"})]
        way = "forward" if record["way"] == "forward" else "backward"
        took, whole = (
            _one_way(times, labels, way) for labels in (record | {"seconds": None}, size | {"what": "dense"})
        )
        if took is None or whole is None:
            continue
        flops = PRODUCTS[way] * 2 * found["pairs"] * TOKENS**2 * record["head_dim"]
        figures = _ms(took, whole) | {"TFLOP_per_s": flops / took / 1e12}
        if peak is not None:
            figures["of_matmul_rate"] = flops / took / peak
        figures["used_per_load"] = found["used_per_load"]
        goal = GOALS[way] if all(record.get(key) == value for key, value in GOAL_AT.items()) else None
        title = f"{_title(case)}, {record['implementation']}, {way}, selection {record['selection']}"
        yield Row(title, took / whole, found["share"], goal, figures)


def tuning_rows(records: list[Record]) -> Iterator[Row]:
    first: dict[str, float] = {}
    for record in records:
        if record.get("what") == "tuning" and "seconds" in record:
            took = statistics.median(record["seconds"])
            rule = first.setdefault(record["kernel"], took)
            yield Row(f"tuning {record['kernel']}: {record['tiling']}", took / rule, figures={"ms": 1e3 * took})


def _one_way(times: Mapping[tuple, float], labels: Record, way: str) -> float | None:
    """Seconds of the forward or the backward pass; None where what it takes was not measured."""
    forward = times.get(_key(labels | {"way": "forward"}))
    if way == "forward" or forward is None:
        return forward
    both = times.get(_key(labels | {"way": "both"}))
    return None if both is None else max(both - forward, 1e-9)


def _key(record: Record) -> tuple:
    names = ("what", "tokens", "heads", "head_dim", "inputs", "sparsity", "implementation", "way", "selection")
    return tuple(record.get(name) for name in names)


def _title(case: Record) -> str:
    return f"{case['tokens']} tokens, {case['sparsity']:.2%}, {case['inputs']}"


def _ms(took: float, whole: float) -> dict[str, float]:
    return {"ms": 1e3 * took, "dense_ms": 1e3 * whole}
