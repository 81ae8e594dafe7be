"""Block sparse attention on a Hopper GPU: the battery on the device, then the kernels against dense cuDNN and XLA.

    python -m benchmarks.bsa_gpu --list                      # the pieces
    python -m benchmarks.bsa_gpu                             # all that is not finished yet
    python -m benchmarks.bsa_gpu --only battery rate 37632/random --limit 240
    python -m benchmarks.bsa_gpu --only tune                 # every cut of the three kernels, at the first size
    python -m benchmarks.bsa_gpu --only memcheck racecheck   # compute-sanitizer over outputs and gradients
    python -m benchmarks.bsa_gpu --grids 4,8,8 --heads 2 --rounds 1 --only rate 256/random   # a look on any machine

Every piece runs in a process of its own with a limit in seconds, and its records are written one by one to
bsa_gpu.jsonl: what a kernel that fails or hangs leaves unmeasured is only its own, and a run that ends early goes on
where it ended. After every piece the table is written from all there is: bsa_gpu.{json,md}. The process that starts the
others never touches the device, so that its memory is theirs.

Ratios are over dense attention at the same size; the minimum is the share of pairs that is computed. TFLOP/s count the
products of the chosen blocks: 4 N K d per head forward, 10 backward (five products, although the kernels compute two of
them twice). Times are medians of rounds of queued calls that are waited for. Where the kernels do not run, the XLA form
alone is measured.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.bsa_gpu_measure import BLOCK, INPUTS, Record, Settings, attentions, rate, tuning
from benchmarks.bsa_gpu_report import result
from benchmarks.common import RESULTS, write

ROOT = pathlib.Path(__file__).parents[1]
HERE = (sys.executable, "-m", "benchmarks.bsa_gpu")
GRIDS = ((24, 28, 56), (48, 44, 80))
SPARSITIES = (0.9375, 0.875)
_BATTERY = (sys.executable, "-m", "pytest", "-q", "tests/kernels/test_bsa_mosaic.py", "-m", "", "-k")
_SANITIZER = ("compute-sanitizer", "--error-exitcode", "9", "--tool")
_SANITIZED = "OnDevice and oracle and bfloat16"
_GPU = {"JAX_PLATFORMS": "cuda"}
# Without an allocator of JAX's own the sanitizer sees where every array ends.
_PLAIN_MEMORY = _GPU | {"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}
COMMANDS = {
    "battery": ((*_BATTERY, "OnDevice"), _GPU),
    "memcheck": ((*_SANITIZER, "memcheck", *_BATTERY, _SANITIZED), _PLAIN_MEMORY),
    "racecheck": ((*_SANITIZER, "racecheck", *_BATTERY, _SANITIZED), _PLAIN_MEMORY),
}


def sizes(settings: Settings) -> dict[str, tuple]:
    """Pieces that measure attention: their names, and grid and inputs."""
    return {f"{g[0] * g[1] * g[2]}/{inputs}": (g, inputs) for g in settings.grids for inputs in INPUTS}


def pieces(settings: Settings) -> list[str]:
    """All names, in the order in which they run."""
    return ["rate", "battery", *sizes(settings), "memcheck", "racecheck", "tune"]


def records_of(piece: str, settings: Settings) -> Iterator[Record]:
    """What a piece measures in this process."""
    if piece == "rate":
        return rate(settings)
    if piece == "tune":
        return tuning(settings)
    return attentions(settings, *sizes(settings)[piece])


class Log:
    """The records of all pieces so far, one JSON object a line; the first line holds the settings."""

    def __init__(self, path: pathlib.Path, settings: Settings):
        self.path = path
        head = json.loads(json.dumps(dataclasses.asdict(settings)))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(head) + "\n")
        elif json.loads(path.read_text().splitlines()[0]) != head:
            raise SystemExit(f"{path} holds results of other settings: give another --out or --name, or move it away")

    def records(self) -> list[Record]:
        return [json.loads(line) for line in self.path.read_text().splitlines()[1:]]

    def finished(self) -> set[str]:
        return {record["piece"] for record in self.records() if record.get("what") == "finished"}

    def add(self, piece: str, record: Record) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"piece": piece} | record) + "\n")

    def forget(self, piece: str) -> None:
        head, *lines = self.path.read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["piece"] != piece]
        self.path.write_text("\n".join([head, *kept]) + "\n")


def run(piece: str, arguments: list[str], log: Log, limit: float, cache: str) -> None:
    """One piece in a process of its own, ended with all that it started after `limit` seconds."""
    log.forget(piece)
    command, environment = COMMANDS.get(
        piece, ((*HERE, *arguments, "--measure", piece), {"JAX_COMPILATION_CACHE_DIR": cache})
    )
    print(f"{piece}: at most {limit:g} s", flush=True)
    try:
        child = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, start_new_session=True)
        outcome = {0: "passed"}.get(code := child.wait(limit), f"ended with {code}")
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        outcome = f"ended after its limit of {limit:g} s"
    except FileNotFoundError:
        outcome = f"{command[0]} is not on the PATH"
    if piece in COMMANDS or outcome != "passed":
        log.add(piece, {"what": "command", "outcome": outcome})
    if outcome == "passed":
        log.add(piece, {"what": "finished"})


def driver() -> str:
    """The card and the NVIDIA driver's version, where there is one."""
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "No NVIDIA driver"


def sides(text: str) -> tuple[int, int, int]:
    grid = tuple(int(side) for side in text.split(","))
    if len(grid) != 3 or any(side % block for side, block in zip(grid, BLOCK, strict=True)):
        raise argparse.ArgumentTypeError(f"{text}: expected T,H,W that {BLOCK} divide")
    return grid


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--grids", type=sides, nargs="+", default=GRIDS, help="T,H,W in tokens")
    found.add_argument("--sparsities", type=float, nargs="+", default=SPARSITIES)
    found.add_argument("--heads", type=int, default=32)
    found.add_argument("--head-dim", type=int, default=128)
    found.add_argument("--rounds", type=int, default=5)
    found.add_argument("--only", nargs="+", metavar="PIECE", help="these, again if need be")
    found.add_argument("--limit", type=float, default=300, help="seconds of a piece")
    found.add_argument("--out", type=pathlib.Path, default=RESULTS, help="folder of the results")
    found.add_argument("--name", default="bsa_gpu", help="of the result's files")
    found.add_argument("--list", action="store_true", help="the pieces' names, and what is finished")
    found.add_argument("--report", action="store_true", help="write the table from what there is")
    found.add_argument("--measure", metavar="PIECE", help="in this process, as the command does for every piece")
    return found


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    args.out = args.out.resolve()
    settings = Settings(tuple(args.grids), tuple(args.sparsities), args.heads, args.head_dim, args.rounds)
    known = pieces(settings)
    for piece in [*(args.only or ()), *([args.measure] if args.measure else ())]:
        if piece not in known:
            raise SystemExit(f"{piece}: no such piece, expected one of {' '.join(known)}")
    log = Log((args.out / args.name).with_suffix(".jsonl"), settings)
    if args.measure:
        for record in records_of(args.measure, settings):
            log.add(args.measure, record)
        return
    finished = log.finished()
    if args.report:
        write(result(args.name, log.records(), driver()), args.out)
    elif args.list:
        print("\n".join(f"{piece}{'  (finished)' if piece in finished else ''}" for piece in known))
    else:
        with tempfile.TemporaryDirectory() as cache:
            for piece in args.only or [piece for piece in known if piece not in finished]:
                run(piece, arguments, log, args.limit, cache)
                subprocess.run([*HERE, *arguments, "--report"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
