"""How right curation is, how fast, and how much memory it takes: `python -m benchmarks.curation`.

    python -m benchmarks.curation_corpus --out CORPUS --font NotoSansCJK.ttc
    python -m benchmarks.curation right CORPUS --out LIBRARY                        # results/curation.*
    python -m benchmarks.curation right CORPUS --out OTHER --transnet WEIGHTS --groups edited rushing
                                                                                    # results/curation_transnet.*
    python -m benchmarks.curation fast CORPUS [--videos 24]                         # results/curation_speed.*
    python -m benchmarks.curation long CORPUS                                       # results/curation_memory.*

`right` runs all stages over the corpus (benchmarks/curation_corpus.py) and compares them with its truth; a library that
is there is continued. With TransNetV2 it runs the first two only. `fast` does the stages one by one over some videos,
with one worker and with two. `long` does so for a video of five minutes and for one of an hour, and samples memory.
"""

import argparse
import pathlib
import resource
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

import psutil

from benchmarks.common import Result, Row, write
from benchmarks.curation_corpus import GROUPS, Video, read_truth
from benchmarks.curation_measures import Measured, measured
from lcv_jax.data.curation.captioning import Captioning
from lcv_jax.data.curation.cuts import Lengths
from lcv_jax.data.curation.engines import EngineSettings
from lcv_jax.data.curation.ingest import Ingest
from lcv_jax.data.curation.pipeline import Curation, run
from lcv_jax.data.curation.shots import Shots
from lcv_jax.data.curation.shown import summary
from lcv_jax.data.video import probe, stream_video
from lcv_jax.data.video_writer import join_videos, write_video

STAGES = ("ingest", "shots", "clips", "annotate")
GOALS = {"hard cuts": 0.05, "borders": 0.0, "exact copies": 0.0, "camera moves": 0.05}
"""Errors at most, of the cases that have one."""
_SHOWN = 6


def recipe(sources: Sequence[str], workers: int, transnet: str = "") -> Curation:
    """The defaults, but for shots of half a second on: transitions are counted by the clips on both sides."""
    return Curation(
        ingest=Ingest(sources=tuple(sources)),
        shots=Shots(lengths=Lengths(least=0.5), weights=transnet),
        caption=Captioning(kinds=()),
        engine=EngineSettings(workers=workers),
    )


def right(corpus: pathlib.Path, out: str, groups: Sequence[str], workers: int, transnet: str) -> None:
    videos = [video for video in read_truth(corpus) if video.group in (groups or GROUPS)]
    config = recipe([str(corpus / "videos" / f"{video.name}.mp4") for video in videos], workers, transnet)
    # Only cuts depend on the network.
    library = run(config, out, ("ingest", "shots") if transnet else (*STAGES, "caption", "embed", "balance"))
    print(summary(library))
    found = measured(library, videos)
    for one in found:
        if one.wrong:
            print(f"{one.case}: {'; '.join(one.wrong)}")
    frames = sum(video.frames for video in videos)
    detectors = ", ".join(type(one).__name__ for one in config.shots.detectors)
    write(
        Result(
            "curation_transnet" if transnet else "curation",
            "What curation finds in the corpus" + ", with TransNetV2" * bool(transnet),
            over="1 - F1, the share of errors",
            rows=[_row(one) for one in found if one.found or one.true],
            minimum="0",
            notes=f"{len(videos)} videos, {frames} frames, {len({video.group for video in videos})} groups; shots by "
            f"{detectors}{' and TransNetV2' if transnet else ''}. right: found and true; found: all; true: all "
            "that is. The command prints what was wrong.",
        )
    )


def _row(one: Measured) -> Row:
    figures = {"right": one.right, "found": one.found, "true": one.true}
    figures |= {"precision": round(one.precision, 4), "recall": round(one.recall, 4), "F1": round(one.f1, 4)}
    return Row(one.case, round(1 - one.f1, 4), 0.0, GOALS.get(one.case), figures)


def fast(corpus: pathlib.Path, count: int) -> None:
    """Processor seconds are those of workers that have ended, starting them included."""
    chosen = _spread(read_truth(corpus), count)
    frames = sum(video.frames for video in chosen)
    sources = [str(corpus / "videos" / f"{video.name}.mp4") for video in chosen]
    took = {workers: dict(_stages(sources, workers)) for workers in (1, 2)}
    rows = []
    for name in STAGES:
        (wall, used), (wall_2, used_2) = took[1][name], took[2][name]
        figures = {"frames_per_cpu_s": round(frames / used, 1), "frames_per_s_1": round(frames / wall, 1)}
        figures |= {"frames_per_s_2": round(frames / wall_2, 1), "cpu_s_1": round(used, 1), "cpu_s_2": round(used_2, 1)}
        rows.append(Row(name, round(wall_2 / wall, 3), 0.5, None, figures))
    write(
        Result(
            "curation_speed",
            "Curation with one and two workers",
            over="seconds of two workers / of one",
            rows=rows,
            minimum="two workers on two idle cores",
            notes=f"{len(chosen)} videos, {frames} frames of {chosen[0].size[0]} to {max(v.size[0] for v in chosen)} "
            "pixels width; workers of one thread. frames_per_cpu_s: over processor seconds of all workers, their start "
            "included, which what else the machine does changes less than seconds.",
        )
    )


def _spread(videos: Sequence[Video], count: int) -> list[Video]:
    """Some of every group."""
    seen = [video for video in videos if not (video.copy_of or video.like)]
    return [seen[at * len(seen) // count] for at in range(min(count, len(seen)))]


def _stages(sources: Sequence[str], workers: int) -> Iterator[tuple[str, tuple[float, float]]]:
    """Of each stage, seconds and processor seconds."""
    with tempfile.TemporaryDirectory() as out:
        for name in STAGES:
            since, before = time.perf_counter(), _used()
            run(recipe(sources, workers), out, [name])
            yield name, (time.perf_counter() - since, _used() - before)


def _used() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def long(corpus: pathlib.Path, minutes: Sequence[int]) -> None:
    """One worker, a video of shots of the corpus again and again. Later stages see clips only."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        peaks: dict[int, dict[str, tuple[float, float]]] = {}
        for length in minutes:
            path = pathlib.Path(folder, f"{length}.mp4")
            _lengthened(corpus, path, length)
            peaks[length] = {}
            for name in STAGES[:3]:
                with _Memory() as memory:
                    run(recipe([str(path)], 1), f"{folder}/library-{length}", [name])
                peaks[length][name] = memory.driver, memory.workers
                print(length, name, peaks[length][name], flush=True)
        short, whole = minutes[0], minutes[-1]
        for name in STAGES[:3]:
            figures = {}
            for length in minutes:
                driver, workers = peaks[length][name]
                figures |= {f"driver_MB_{length}min": round(driver), f"worker_MB_{length}min": round(workers)}
            rows.append(Row(name, round(peaks[whole][name][1] / peaks[short][name][1], 3), 1.0, 1.5, figures))
    write(
        Result(
            "curation_memory",
            f"Memory of curation for videos of {short} and {whole} minutes",
            over=f"the worker's peak for {whole} minutes / for {short}",
            rows=rows,
            minimum="memory that does not depend on length",
            notes="One worker; resident memory, sampled ten times a second, of the driver and of the worker.",
        )
    )


def _lengthened(corpus: pathlib.Path, path: pathlib.Path, minutes: int) -> None:
    """Edited videos of one size and rate, joined again and again."""
    alike = [video for video in read_truth(corpus) if video.group == "edited" and video.size == (320, 180)]
    alike = [video for video in alike if video.fps == alike[0].fps]
    parts = []
    for video in alike:
        part = path.with_name(f"part-{video.name}.mp4")
        if not part.is_file():
            write_video(part, stream_video(corpus / "videos" / f"{video.name}.mp4"), video.fps)
        parts.append(part)
    seconds = sum(video.frames / video.fps for video in alike)
    join_videos(parts * round(60 * minutes / seconds), path)
    print(f"{path.name}: {probe(path).frames} frames", flush=True)


class _Memory:
    """Peaks in megabytes of this process and of the largest of its children, while the block runs."""

    def __enter__(self) -> "_Memory":
        self.driver = self.workers = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(0.1):
            self.driver = max(self.driver, own.memory_info().rss / 1e6)
            for child in own.children():
                try:
                    self.workers = max(self.workers, child.memory_info().rss / 1e6)
                except psutil.NoSuchProcess:
                    continue


def main(args: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("right", "fast", "long"))
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("--out", help="the library of `right`")
    parser.add_argument("--groups", nargs="*", default=(), choices=tuple(GROUPS), help="of `right`")
    parser.add_argument("--workers", type=int, default=1, help="of `right`")
    parser.add_argument("--transnet", default="", help="weights of TransNetV2, for `right`")
    parser.add_argument("--videos", type=int, default=24, help="of `fast`")
    parser.add_argument("--minutes", type=int, nargs=2, default=(5, 60), help="of `long`")
    asked = parser.parse_args(args)
    if asked.what == "right":
        if asked.out is None:
            parser.error("right: expected --out, a folder for the library")
        right(asked.corpus, asked.out, asked.groups, asked.workers, asked.transnet)
    elif asked.what == "fast":
        fast(asked.corpus, asked.videos)
    else:
        long(asked.corpus, asked.minutes)


if __name__ == "__main__":
    main()
