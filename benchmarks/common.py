"""What every benchmark shares: the record of the machine, alternated timing, the two files of a result.

A benchmark measures candidates against each other in one process and reports ratios, because seconds of one
machine mean nothing on another:

    times = alternate({"ours": ours, "diffusers": theirs}, rounds=5)
    row = Row("encode 17 frames", ratio=ratio(times, "ours", "diffusers"), minimum=0.8, goal=1.0,
              figures=seconds(times))
    write(Result("vae_vs_diffusers", "VAE against diffusers", over="ours / diffusers, seconds", rows=(row,)))
"""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

import jax

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "orbax-checkpoint",
    "numpy",
    "torch",
    "diffusers",
    "transformers",
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a result.

    case: what was measured. ratio: measured over the reference that the result's `over` names. minimum: the
    least ratio that arithmetic or the hardware allows, None where nothing bounds it. goal: what we want, None
    where the ratio is only reported. figures: the raw numbers behind it, the unit in the name ("ours_s").
    """

    case: str
    ratio: float
    minimum: float | None = None
    goal: float | None = None
    figures: Mapping[str, float | int | str] = dataclasses.field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the ratio is at most the goal; None without a goal."""
        return None if self.goal is None else self.ratio <= self.goal


@dataclasses.dataclass(frozen=True)
class Result:
    """name: of the files. title: of the table. over: what the ratios are. minimum: how it was worked out."""

    name: str
    title: str
    over: str
    rows: Sequence[Row]
    minimum: str = "none stated"
    notes: str = ""


def alternate(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds per call of each candidate, one list entry per round, every round calling all of them in turn.

    Alternation spreads what else the machine does over all candidates alike. The order is reversed in every
    other round. Results are waited for. `warmup` rounds come first and are not counted: they compile.
    """
    if rounds < 1:
        raise ValueError(f"{rounds=}: at least one round has to be counted")
    names = list(candidates)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        for name in names if number % 2 == 0 else reversed(names):
            start = time.perf_counter()
            jax.block_until_ready(candidates[name]())
            elapsed = time.perf_counter() - start
            if number >= 0:
                times[name].append(elapsed)
    return times


def ratio(times: Mapping[str, Sequence[float]], ours: str, reference: str) -> float:
    """Median over the rounds of `ours` / `reference`, paired round by round."""
    pairs = zip(times[ours], times[reference], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def seconds(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each candidate, as figures of a row: {"ours_s": 1.25, ...}."""
    return {f"{name}_s": statistics.median(values) for name, values in times.items()}


def environment() -> dict[str, object]:
    """Where a result was measured: processor, cores, accelerator, versions, commit. No host name, no path."""
    devices = jax.devices()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "backend": jax.default_backend(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": _commit(),
    }


def write(result: Result, folder: pathlib.Path = RESULTS) -> pathlib.Path:
    """Writes NAME.json (everything) and NAME.md (the table), prints the table, returns the JSON's path."""
    record = {
        "name": result.name,
        "title": result.title,
        "over": result.over,
        "minimum": result.minimum,
        "notes": result.notes,
        "environment": environment(),
        "rows": [dataclasses.asdict(row) | {"met": row.met} for row in result.rows],
    }
    table = markdown(record)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    path.with_suffix(".md").write_text(table)
    print(table)
    return path


def markdown(record: Mapping[str, object]) -> str:
    """The table of a record as `write` makes it; columns are the row's fields and all figures that occur."""
    rows = record["rows"]
    figures = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    header = ["case", "ratio", "minimum", "goal", "met", *figures]
    lines = [f"# {record['title']}", "", f"Ratio: {record['over']}. Minimum: {record['minimum']}."]
    if record["notes"]:
        lines += ["", record["notes"]]
    lines += ["", _line(header), _line(["---"] * len(header))]
    for row in rows:
        cells = [row["case"], row["ratio"], row["minimum"], row["goal"], row["met"]]
        lines.append(_line([*cells, *(row["figures"].get(name) for name in figures)]))
    where = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    lines += [
        "",
        f"{where['cpu']}, {where['cores']} cores; {where['backend']}: {where['devices']}; {where['system']}.",
    ]
    lines += [f"Python {where['python']}; {versions}; commit {where['commit']}.", ""]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_model() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit's short name, with "+changes" when tracked files outside results/ differ from it."""
    root = pathlib.Path(__file__).parents[1]
    try:
        name = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{name}+changes" if changed else name


def _git(root: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
