"""Importing a checkpoint: peak memory of the process, and its rate over a plain copy of the same files.

A float32 DiT of the published widths with fewer blocks is written in the official layout, copied, and imported to
bfloat16 by `python -m lcv_jax.checkpoint import` in a fresh process whose RssAnon is sampled from outside.
RssAnon is what the process itself allocated, Python and JAX included; pages of files do not count.

    python -m benchmarks.import_checkpoint --depth 4 --folder /some/disk      # 4.7 GB, three times that on disk
"""

import argparse
import dataclasses
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zlib

import jax
import numpy as np

from benchmarks.common import Result, Row, ratio, write
from lcv_jax.checkpoint import convert, layout
from lcv_jax.checkpoint.load import flatten
from lcv_jax.checkpoint.tensorfile import TensorInfo
from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig

GIGABYTE = 10**9
_PERIOD = 0.005  # seconds between two samples of the memory


def tensors_of(config):
    """The DiT's tensors in the official layout, float32."""
    table = layout.COMPONENTS["dit"].table
    tensors = {}
    for path, leaf in flatten(zoo.abstract_params(config)).items():
        for name, place in table.names(path, leaf.shape[0]):
            shape = leaf.shape if place.layer is None else leaf.shape[1:]
            tensors[name] = TensorInfo(place.axes.official_shape(shape), np.dtype("float32"))
    return tensors


def synthetic(root, config):
    """Writes dit/ of the official layout with deterministic float32 weights, streamed; returns its tensors."""
    tensors = tensors_of(config)

    def values(name):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return rng.standard_normal(tensors[name].shape, np.float32) * np.float32(0.02)

    folder = root / "dit"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    convert.write_shards(folder, "diffusion_pytorch_model", tensors, values, GIGABYTE)
    return tensors


def anonymous_bytes(pid):
    """RssAnon of a process in bytes; None when it has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    match = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def run_import(src, dst):
    """Seconds of the import itself, as the command reports them, and its process's peak RssAnon in bytes."""
    command = [sys.executable, "-m", "lcv_jax.checkpoint", "import", str(src), str(dst)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid) or 0)
        time.sleep(_PERIOD)
    out = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"the import ended with {process.returncode}: {out}")
    return float(re.search(r"bytes read in ([0-9.]+) s", out)[1]), peak


def run_copy(src, dst):
    start = time.perf_counter()
    shutil.copytree(src, dst)
    return time.perf_counter() - start


def measure(folder, depth, rounds):
    """The rows of the table, from `rounds` alternated copies and imports."""
    src, copy, ours = folder / "official", folder / "copy", folder / "ours"
    tensors = synthetic(src, dataclasses.replace(DiTConfig(), depth=depth))
    size = sum(info.nbytes for info in tensors.values())
    largest = max(info.nbytes for info in tensors.values())
    times, peaks = {"copy": [], "import": []}, []
    for _ in range(rounds):
        times["copy"].append(run_copy(src, copy))
        shutil.rmtree(copy)
        seconds, peak = run_import(src / "dit", ours)
        shutil.rmtree(ours)
        times["import"].append(seconds)
        peaks.append(peak)
    limit = GIGABYTE + 3 * largest
    rate = {f"{name}_MB_per_s": size / 1e6 / statistics.median(values) for name, values in times.items()}
    memory = {"peak_MB": max(peaks) / 1e6, "limit_MB": limit / 1e6, "largest_tensor_MB": largest / 1e6}
    return size, (
        Row("peak RssAnon over 1 GB + 3 x largest tensor", max(peaks) / limit, goal=1.0, figures=memory),
        Row("seconds of the import over a plain copy", ratio(times, "import", "copy"), minimum=0.75, figures=rate),
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=4, help="blocks; each is 1.13 GB in float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None, help="where the files go; they are removed at the end")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        size, rows = measure(pathlib.Path(folder), args.depth, args.rounds)
    write(
        Result(
            "import",
            f"Import of a float32 DiT of {size / 1e9:.2f} GB to bfloat16",
            over="as each case says",
            rows=rows,
            minimum="for the rate: a copy writes every byte it reads, an import half of them, so 1.5 / 2",
            notes=f"{args.depth} blocks of the published widths, {args.rounds} rounds, files in the page cache.",
        )
    )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
