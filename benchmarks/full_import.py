"""Importing a float32 DiT of the published size, and restoring it onto other meshes: peak memory of each process.

The checkpoint is written sparse: real names, shapes and shards, every tensor a hole but for its first and last value,
which tell tensors apart. It takes no room on disk; the import reads and casts all of it and writes every array in full.
Two processes of 8 virtual devices then restore the first blocks onto a mesh each and compare those values, and where
each device's part lies. Memory is RssAnon, sampled from outside.

    python -m benchmarks.full_import --folder /some/disk           # 54 GB in, 27 GB out, removed at the end
    python -m benchmarks.full_import --folder /some/disk --depth 4 --restored 2
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zlib

import jax
import numpy as np

from benchmarks.common import Result, Row, write
from benchmarks.import_checkpoint import GIGABYTE, anonymous_bytes, run_import, tensors_of
from lcv_jax.checkpoint import convert, layout
from lcv_jax.checkpoint.load import flatten, load_params
from lcv_jax.checkpoint.tensorfile import METADATA, header
from lcv_jax.models import zoo
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import BFLOAT16
from lcv_jax.parallel import footprint
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING

MESHES = ("fsdp=8", "fsdp=4,tensor=2")
DEVICES = 8
_PERIOD = 0.02


def mark(name, end):
    """The value that a tensor has at one end; bfloat16 holds it exactly."""
    return 1 + zlib.crc32(f"{name} {end}".encode()) % 127 / 128


def write_sparse(folder, config, shard):
    """Writes the DiT in the published layout as files of holes; returns its tensors."""
    tensors, stem = tensors_of(config), layout.COMPONENTS["dit"].stem
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    shards, weight_map = convert.split(tensors, shard), {}
    for i, names in enumerate(shards, 1):
        file = folder / f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file.name)
        order, start = header({name: tensors[name] for name in names}, METADATA)
        with file.open("wb") as out:
            out.write(start)
            for name in order:
                begin, size = out.tell(), tensors[name].nbytes
                out.write(np.float32(mark(name, "first")).tobytes())
                out.seek(begin + size - 4)
                out.write(np.float32(mark(name, "last")).tobytes())
    size = sum(info.nbytes for info in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return tensors


class FirstBlocks:
    """A source that shows only a model's first blocks."""

    def __init__(self, source, depth):
        self._source, self.path = source, source.path
        hidden = {n for n in source.tensors if n.startswith("blocks.") and int(n.split(".")[1]) >= depth}
        self.tensors = {n: info for n, info in source.tensors.items() if n not in hidden}

    def file(self, name):
        return self._source.file(name)

    def read(self, name, dtype=None):
        return self._source.read(name, dtype)

    def chunks(self, name):
        return self._source.chunks(name)


def restore(folder, mesh, depth):
    """Restores the first blocks onto the mesh; raises where a value or a shard is not what it should be."""
    component = layout.COMPONENTS["dit"]
    config = dataclasses.replace(layout.read_config(component, folder), depth=depth)
    source = FirstBlocks(layout.open_source(folder), depth)
    abstract = zoo.abstract_params(config, BFLOAT16)
    shardings = MeshPlacement(MeshConfig.parse(mesh).make(), SAMPLING).params(config, abstract)
    start = time.perf_counter()
    params = load_params(source, component.table, abstract, shardings=shardings)
    seconds = time.perf_counter() - start
    for path, leaf in flatten(params).items():
        names = component.table.names(path, depth if path.startswith("blocks/") else None)
        for row, (name, place) in enumerate(names):
            value = leaf[row] if place.layer is not None else leaf
            first, last = (float(value[(end,) * value.ndim]) for end in (0, -1))
            assert (first, last) == (mark(name, "first"), mark(name, "last")), name
    held = {shard.device: 0 for shard in params["blocks"]["attn"]["qkv"]["kernel"].addressable_shards}
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    assert set(held.values()) == {footprint.device_bytes(abstract, shardings)}
    return {"bytes": footprint.tree_bytes(abstract), "device": max(held.values()), "seconds": seconds}


def run_restore(folder, mesh, depth):
    """What `restore` returns in a process of its own, and that one's peak RssAnon."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
    command = [sys.executable, "-m", "benchmarks.full_import", "--restore", mesh, "--folder", str(folder)]
    process = subprocess.Popen(
        [*command, "--restored", str(depth)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(process.pid) or 0)
        time.sleep(_PERIOD)
    if process.returncode:
        raise RuntimeError(f"restoring onto {mesh} ended with {process.returncode}")
    return json.loads(process.stdout.read().splitlines()[-1]), peak


def measure(folder, depth, restored):
    """Bytes of the checkpoint, and the rows of the table."""
    src, dst = folder / "official" / "dit", folder / "ours"
    tensors = write_sparse(src, dataclasses.replace(DiTConfig(), depth=depth), 5 * GIGABYTE)
    size = sum(info.nbytes for info in tensors.values())
    largest = max(info.nbytes for info in tensors.values())
    seconds, peak = run_import(src, dst)
    stored = sum(file.stat().st_blocks * 512 for file in dst.rglob("*") if file.is_file())
    figures = {"peak_MB": peak / 1e6, "read_GB": size / 1e9, "on_disk_GB": stored / 1e9, "seconds": seconds}
    limit = GIGABYTE + 3 * largest
    rows = [Row("import: peak RssAnon over 1 GB + 3 x largest tensor", peak / limit, goal=1.0, figures=figures)]
    for mesh in MESHES:
        found, peak = run_restore(dst, mesh, restored)
        case = f"{restored} blocks onto {mesh}: peak RssAnon over the devices' parts + 1 GB + 3 x largest tensor"
        figures = {
            "peak_MB": peak / 1e6,
            "read_GB": found["bytes"] / 1e9,
            "device_MB": found["device"] / 1e6,
            "seconds": found["seconds"],
        }
        rows.append(Row(case, peak / (DEVICES * found["device"] + limit), goal=1.0, figures=figures))
    return size, tuple(rows)


def main(argv=None, results=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=DiTConfig().depth, help="blocks; each is 1.13 GB in float32")
    parser.add_argument("--restored", type=int, default=4, help="blocks that are restored; the host holds them all")
    parser.add_argument("--folder", default=None, help="where the files go; they are removed at the end")
    parser.add_argument(
        "--restore", metavar="MESH", help="only restore what lies in --folder, and print what was found"
    )
    args = parser.parse_args(argv)
    if args.restore:
        print(json.dumps(restore(pathlib.Path(args.folder), args.restore, args.restored)))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        size, rows = measure(pathlib.Path(folder), args.depth, args.restored)
    write(
        Result(
            "full_import",
            f"Import of a sparse float32 DiT of {size / 1e9:.1f} GB, restored onto meshes of {DEVICES}",
            over="as each case says",
            rows=rows,
            notes=f"{args.depth} blocks of the published widths imported, the first {args.restored} restored: virtual "
            "devices share one host, which would have to hold all of the model.",
        ),
        **({} if results is None else {"folder": results}),
    )


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    main()
