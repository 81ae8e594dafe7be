"""How fast cached samples are read, over what a training step takes in: `python -m benchmarks.loader`.

Records of the 13.6B model's size (145 text tokens of 4096, latents of the form, bfloat16) are written to a temporary
folder and read through the loader: threads, padding to 512 tokens, float32 latents. What a node of 8 H100 takes in at
most is 8 devices' samples a step over the step's seconds at the peak (docs/scaling.md). The minimum is reading the
records' bytes and nothing else, one after the other.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence

import ml_dtypes
import numpy as np
from array_record.python import array_record_module as array_record

from benchmarks.common import Result, Row, write
from lcv_jax.data.loader import Loader, Settings
from lcv_jax.data.records import Record
from lcv_jax.data.shards import INDEX, LATENTS, PROMPTS, TEXT, Dataset, Encoding, Index, write_shard
from lcv_jax.data.storage import Folder

BF16 = np.dtype(ml_dtypes.bfloat16)
# Form, and seconds that a node of 8 devices needs for a sample at the peak of an H100: those of a step of 6,144 or of
# 37,440 tokens a device, from docs/scaling.md.
KINDS = {
    "480p x 93": ((24, 60, 104), 8.51 / 8),
    "256p x 93": ((24, 32, 32), 0.71 / 8),
    "256p": ((1, 32, 32), 0.71 / 8 / 24),
}
TEXT_TOKENS, WIDTH = 145, 4096
_AHEAD = 10


def written(folder: str, form: tuple[int, int, int], records: int) -> None:
    encoding = Encoding("-", "-", "-", 16, WIDTH, 512, "bfloat16", "mode", 15)
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(*form, 16)).astype(BF16)
    states = rng.normal(size=(TEXT_TOKENS, WIDTH)).astype(BF16)
    arrays = {LATENTS: latents, TEXT + "en": states}
    place = Folder(folder)
    shard = write_shard(place, "0.arrayrecord", (Record(str(n), {"en": ""}, arrays) for n in range(records)))
    prompts = write_shard(place, PROMPTS, [])
    place.write(INDEX, json.dumps(Index(encoding, (shard,), prompts, "random").to_json()))


def measure(name: str, records: int, batches: int, threads: int) -> Row:
    form, step = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        written(folder, form, records)
        dataset = Dataset(folder)
        tokens = 8 * form[0] * (form[1] // 2) * (form[2] // 2)
        loader = Loader([dataset], [1], Settings(tokens=tokens), threads=threads)
        for _ in range(_AHEAD):
            next(loader)  # what was read ahead
        start = time.perf_counter()
        samples = sum(next(loader).size for _ in range(batches))
        ours = (time.perf_counter() - start) / samples
        shard = dataset.index.shards[0]
        file = array_record.ArrayRecordReader(f"{folder}/{shard.file}", "readahead_buffer_size:0,max_parallelism:0")
        start = time.perf_counter()
        for number in range(records):
            file.read([number])
        raw = (time.perf_counter() - start) / records
    figures = {"MB_a_record": round(shard.bytes / records / 1e6, 2), "samples_a_second": round(1 / ours, 1)}
    figures |= {"MB_a_second": round(shard.bytes / records / 1e6 / ours, 1)}
    return Row(name, ratio=round(ours / step, 5), minimum=round(raw / step, 5), goal=1.0, figures=figures)


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=64)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--threads", type=int, default=4)
    asked = parser.parse_args(args)
    rows = [measure(name, asked.records, asked.batches, asked.threads) for name in KINDS]
    write(
        Result(
            "loader",
            "Reading cached samples",
            over="seconds of the loader for a sample / seconds that a node of 8 H100 needs for it at its peak",
            rows=rows,
            minimum="reading the records' bytes alone, from the page cache",
            notes=f"{asked.threads} threads, {asked.records} records in the page cache.",
        )
    )


if __name__ == "__main__":
    main()
