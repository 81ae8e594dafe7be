"""Memory of a long video: whether the last segment's peak is that of the third.

`sample.py long` runs in a fresh process on the small checkpoint. After each segment Linux is told to forget the
process's peak, and asked for it again before the next: all that it allocated, Python, JAX, the encoder and whatever a
segment leaves behind included. (Sampling the memory instead misses peaks of milliseconds.) The first two segments
compile and are not compared.

    python -m benchmarks.long_video                                # 12 segments of 93 frames, twice, about two minutes
    python -m benchmarks.long_video --segments 4 --num-frames 17
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import tyro

from benchmarks.common import Result, Row, write

ROOT = pathlib.Path(__file__).parents[1]
MIB = 2**20
ALLOCATORS = {"glibc as it is": {}, "freed blocks returned": {"MALLOC_MMAP_THRESHOLD_": "131072"}}
_PERIOD = 0.005  # seconds between two looks at what is finished
_FORGET_PEAK = "5"  # of /proc/PID/clear_refs


def peaks(folder: pathlib.Path, segments: int, options: list[str], environment: dict[str, str]) -> list[int]:
    """Peak of the process's own memory, in bytes, while each segment was made and written."""
    command = [sys.executable, "-m", "lcv_jax.sample.cli", "long", "--num-segments", str(segments), *options]
    found = [0] * segments
    with (folder / "log").open("w+") as log:
        process = subprocess.Popen(
            [*command, "--out", str(folder / "x.mp4")],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        before = 0
        while process.poll() is None:
            # The joining of the whole, after the last one, counts as the last one's too.
            current = min(len(list((folder / "x.segments").glob("segment-*.mp4"))), segments - 1)
            if current > before:
                pathlib.Path(f"/proc/{process.pid}/clear_refs").write_text(_FORGET_PEAK)
            found[current], before = max(found[current], _peak(process.pid)), current
            time.sleep(_PERIOD)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"the command ended with {process.returncode}: {log.read()}")
    return found


def _peak(pid: int) -> int:
    """The most that the process had in memory since that was last forgotten, without pages of files; 0 at its end."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    kb = {
        name: int(value) for name, value in re.findall(r"^(VmHWM|RssFile|RssShmem):\s+(\d+) kB", status, re.MULTILINE)
    }
    return 1024 * (kb["VmHWM"] - kb["RssFile"] - kb["RssShmem"]) if kb else 0


def measure(name: str, segments: int, options: list[str], environment: dict[str, str]) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        found = peaks(pathlib.Path(folder), segments, options, environment)
    figures = {f"segment_{index + 1}_MiB": round(peak / MIB, 1) for index, peak in enumerate(found)}
    return Row(name, ratio=found[-1] / found[2], minimum=1.0, goal=1.05, figures=figures)


def main(
    segments: int = 12, num_frames: int = 93, num_cond_frames: int = 13, height: int = 96, width: int = 160
) -> None:
    """segments: at least four. num_frames, num_cond_frames, height, width: of a segment."""
    options = ["--checkpoint", "tests/goldens/checkpoint", "--prompt", "a cat", "--steps", "4", "--compile-cache", ""]
    options += ["--num-frames", str(num_frames), "--num-cond-frames", str(num_cond_frames), "--max-text-tokens", "64"]
    options += ["--height", str(height), "--width", str(width)]
    what = f"{segments} segments of {num_frames} frames, {height} x {width}"
    write(
        Result(
            "long_video",
            "Memory of a long video",
            over="peak memory of the last segment / of the third, pages of files not counted",
            rows=[measure(f"{what}, {name}", segments, options, change) for name, change in ALLOCATORS.items()],
            minimum="1: nothing may pile up",
            notes="The small checkpoint, float32, guidance 4, key and value cache, enhance_hf. glibc keeps freed "
            "blocks of up to 32 MiB, which at this small size are nearly all, and now and then one more of them: "
            "up to 6 % from run to run. Told to return them, it shows what the program itself holds.",
        )
    )


if __name__ == "__main__":
    tyro.cli(main)
