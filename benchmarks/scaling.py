"""What fits on 1, 8, 64 and 256 devices: plans of every task at full size, and compiled steps beside the arithmetic.

    python -m benchmarks.scaling                  # all; the compiled steps take half an hour on two cores
    python -m benchmarks.scaling --compiled none  # plans by arithmetic alone, a minute
    python -m benchmarks.scaling --compiled t2v-480p/8,train-720p/64

Nothing is allocated and no accelerator is needed. Steps that were compiled before are kept until they are compiled
again, and plans are made anew every time. Writes benchmarks/results/scaling.json and the tables of docs/scaling.md,
between their markers. A TPU's rows need libtpu (the extra `tpu`).
"""

import argparse
import contextlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks.common import RESULTS, environment
from lcv_jax.models.remat import Remat
from lcv_jax.parallel import plan_devices, plan_tasks
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.plan import Asked, estimate
from lcv_jax.parallel.plan_devices import GB
from lcv_jax.parallel.plan_report import Report, record
from lcv_jax.parallel.plan_search import choose

MODEL = "longcat-13b"
DEVICES = ("h100-80gb", "h200-141gb")
COUNTS = (1, 8, 64, 256)
# Task and devices of the steps that are compiled for virtual CPU devices, with the meshes of the H100's plans.
COMPILED = (
    "t2v-480p/1",
    "t2v-480p/8",
    "refine-720p/8",
    "train-256p/8",
    "train-480p/64",
    "train-720p/64",
    "train-720p/256",
)
# What else is compiled: device, task, mesh.
OTHERS = {
    "train-720p/64/ring": ("h100-80gb", "train-720p", "context=64"),
    "train-480p/8/tensor": ("h100-80gb", "train-480p", "fsdp=2,context=2,tensor=2"),
    "t2v-480p/8/tpu": ("tpu-v5p", "t2v-480p", "context=8"),
    "train-720p/64/tpu": ("tpu-v5p", "train-720p", "fsdp=8,context=8"),
}
DOC = pathlib.Path(__file__).parents[1] / "docs" / "scaling.md"
RECORD = RESULTS / "scaling.json"


def plans() -> Iterator[dict[str, Any]]:
    """Every task on every number of devices, by arithmetic, on the mesh that is chosen."""
    for kind in DEVICES:
        for task in plan_tasks.TASKS.values():
            for count in COUNTS:
                asked = Asked(MODEL, task, MeshConfig(), plan_devices.named(kind), 0, Remat.FULL)
                asked = choose(asked, count)
                yield record(Report(asked, estimate(asked)))


def compiled(device: str, task: str, mesh: str) -> dict[str, Any]:
    """The command's own record of a compiled step; a process of its own, because it chooses the number of devices."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "plan.json"
        command = [sys.executable, "-m", "lcv_jax.parallel", "plan", "--model", MODEL, "--task", task]
        command += ["--mesh", mesh, "--device", device, "--out", str(out)]
        subprocess.run(command, check=True)
        return json.loads(out.read_text())


def mesh_text(row: dict[str, Any]) -> str:
    return ",".join(f"{axis}={size}" for axis, size in row["mesh"].items() if size > 1) or "data=1"


def plan_table(rows: list[dict[str, Any]], device: str) -> str:
    lines = [
        "| task | devices | mesh | samples | tokens a device | GB a device | fits | s at the peak | "
        "communication over compute |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["device"] == device:
            seconds = row["flops"] / plan_devices.named(device).flops
            cells = [row["task"], row["devices"], mesh_text(row), row["batch"], f"{row['tokens']:,}"]
            cells += [f"{row['bytes'] / GB:.1f}", "yes" if row["fits"] else "**no**", f"{seconds:.2f}"]
            lines.append(_line([*cells, f"{row['communication_over_compute']:.2f}"]))
    return "\n".join(lines)


def memory_table(rows: list[dict[str, Any]], device: str, task: str) -> str:
    """Where a task's bytes go."""
    parts = ("params", "gradients", "optimizer", "activations", "temporaries")
    lines = [_line(["devices", "mesh", *parts]), "|" + "---|" * (2 + len(parts))]
    for row in rows:
        if (row["device"], row["task"]) == (device, task):
            lines.append(_line([row["devices"], mesh_text(row), *(f"{row['memory'][p] / GB:.1f}" for p in parts)]))
    return "\n".join(lines)


def compiled_table(rows: dict[str, dict[str, Any]]) -> str:
    """Arithmetic over what was compiled for virtual CPU devices; traffic of both in float32's bytes."""
    lines = [
        "| step | mesh | temporaries, GB | arithmetic over it | PFLOP a device | arithmetic over it | sent, GB | "
        "arithmetic over it | compiled in, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        found = row["compiled"]
        if "expected_temporaries" not in row:
            continue
        sent, expected = sum(found["sent"].values()), 2 * sum(row["expected_sent"].values())
        cells = [name, mesh_text(row), f"{found['temporaries'] / GB:.1f}"]
        cells += [f"{row['expected_temporaries'] / found['temporaries']:.2f}", f"{found['flops'] / 1e15:.3f}"]
        cells += [f"{row['expected_flops'] / found['flops']:.3f}", f"{sent / GB:.1f}"]
        lines.append(_line([*cells, f"{expected / sent:.2f}" if sent else "", f"{found['seconds']:.0f}"]))
    return "\n".join(lines)


def tpu_table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| step | compiler | mesh | arguments, GB | temporaries, GB | GB a device | fits | PFLOP a device | sent, GB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        found = row["compiled"]
        if not row["device"].startswith("tpu"):
            continue
        cells = [name, found["source"], mesh_text(row)]
        cells += [f"{found[key] / GB:.1f}" if key in found else "" for key in ("arguments", "temporaries")]
        cells += [f"{row['bytes'] / GB:.1f}", "yes" if row["fits"] else "**no**", f"{row['flops'] / 1e15:.2f}"]
        lines.append(_line([*cells, f"{sum(row['sent'].values()) / GB:.0f}"]))
    return "\n".join(lines)


def fill(text: str, tables: dict[str, str]) -> str:
    """The document with the tables between its markers; every marker needs a table and every table a marker."""
    pattern = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
    assert sorted(name for _, name, _ in pattern.findall(text)) == sorted(tables), "markers and tables differ"
    return pattern.sub(lambda found: f"{found[1]}{tables[found[2]]}\n{found[3]}", text)


def _line(cells: list[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiled", default=",".join([*COMPILED, *OTHERS]), help="steps to compile, or none")
    wanted = parser.parse_args().compiled
    jax.config.update("jax_platforms", "cpu")
    where = environment()  # before this script's own files change the tree
    steps: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(FileNotFoundError):
        steps = json.loads(RECORD.read_text())["compiled"]
    rows = list(plans())
    chosen = {f"{row['task']}/{row['devices']}": row for row in rows if row["device"] == DEVICES[0]}
    order = [*COMPILED, *OTHERS]
    for name in [] if wanted == "none" else wanted.split(","):
        device, task, mesh = OTHERS.get(name) or (DEVICES[0], name.split("/")[0], mesh_text(chosen[name]))
        steps[name] = compiled(device, task, mesh)
        _write(where, rows, {name: steps[name] for name in order if name in steps})
    _write(where, rows, {name: steps[name] for name in order if name in steps})


def _write(where: dict[str, object], rows: list[dict[str, Any]], steps: dict[str, dict[str, Any]]) -> None:
    written = {"environment": where, "plans": rows, "compiled": steps}
    RECORD.write_text(json.dumps(written, indent=1, allow_nan=False) + "\n")
    DOC.write_text(fill(DOC.read_text(), tables(rows, steps)))


def tables(rows: list[dict[str, Any]], steps: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The document's tables by the name of their marker."""
    found = {f"plans-{device}": plan_table(rows, device) for device in DEVICES}
    found["memory-train-720p"] = memory_table(rows, DEVICES[0], "train-720p")
    return found | {"compiled": compiled_table(steps), "tpu": tpu_table(steps)}


if __name__ == "__main__":
    main()
