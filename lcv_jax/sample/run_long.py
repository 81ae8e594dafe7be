"""What the commands for long videos do: segment by segment into a folder, joined when all are there."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from lcv_jax.data import files
from lcv_jax.errors import InputError
from lcv_jax.parallel import processes
from lcv_jax.sample import alike, long_video, outputs, run
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.long_tasks import InSegments
from lcv_jax.sample.long_video import Links, LongRequest, Tail
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.segment_folder import SegmentFolder

Film = tuple[Job, ...]


def make(task: InSegments) -> None:
    """Writes every video that the task asks for and prints its name; raises InputError before the first if it can."""
    with processes.agreed():
        films, source = task.films(), task.read()
    alike.check(task, [job for film in films for job in film], source)
    earlier = _earlier(task, films)
    todo = {film: found.tail for film, found in earlier.items() if found.segments < len(film)}
    # What is finished needs joining only, and for that no weights.
    opened, requests = _ask(task, todo, source) if todo else (None, {})
    if task.compile_only and todo:
        run.compile_ahead(opened, task, (kind for r in requests.values() for kind in long_video.kinds(opened, r)))
    if task.compile_only:
        return
    pipe = run.load(opened, task) if todo else None
    for film in films:
        out = film[0].file(task.out)
        if film in requests:
            _make_segments(pipe, task, film, requests[film])
        if processes.is_main():
            SegmentFolder.beside(out).join(len(film), out, _film_settings(task, film))
            print(out)


@dataclasses.dataclass(frozen=True)
class _Earlier:
    """What runs before this one left of a film. segments: finished ones. tail: of the last, if some are to come."""

    segments: int
    tail: Tail | None


def _earlier(task: InSegments, films: Sequence[Film]) -> dict[Film, _Earlier]:
    """As process 0 finds it, in every process; raises InputError if this run may not go on from there."""
    found: list[_Earlier] = []
    with processes.agreed():
        for film in films if processes.is_main() else ():
            segments = _check_folder(task, film)
            goes_on = 0 < segments < len(film)
            tail = SegmentFolder.beside(film[0].file(task.out)).tail() if goes_on else None
            found.append(_Earlier(segments, tail))
    return dict(zip(films, _shared(found), strict=True))


def _shared(found: Sequence[_Earlier]) -> list[_Earlier]:
    arrays = {}
    for i, one in enumerate(found):
        tail = {} if one.tail is None else {"frames": one.tail.frames, "refined": one.tail.refined}
        held = {"segments": np.int32(one.segments)} | {k: v for k, v in tail.items() if v is not None}
        arrays |= {f"{i}/{name}": value for name, value in held.items()}
    arrays = processes.shared_arrays(arrays)
    everyone = []
    while (segments := arrays.get(f"{len(everyone)}/segments")) is not None:
        tail = {name: arrays.get(f"{len(everyone)}/{name}") for name in ("frames", "refined")}
        tail = None if tail["frames"] is None else Tail(int(segments) - 1, **tail)
        everyone.append(_Earlier(int(segments), tail))
    return everyone


def _check_folder(task: InSegments, film: Film) -> int:
    """How many segments an earlier run finished; raises InputError if this one may not go on from there."""
    if task.save_latents is not None:
        raise InputError("--save-latents: a long video has latents for each segment; Pipeline.long_video yields them")
    out = files.check_writable(film[0].file(task.out), ".mp4")
    folder = SegmentFolder.beside(out)
    folder.check_writable()
    finished = folder.finished()
    if finished and not task.resume:
        raise InputError(
            f"--out {out}: {folder.path} holds {finished} finished segments: go on with --resume, or delete the folder"
        )
    folder.check_same(list(_segment_settings(task, film)))
    return finished


def _ask(
    task: InSegments, todo: Mapping[Film, Tail | None], source: Mapping[str, Any]
) -> tuple[Opened, dict[Film, LongRequest]]:
    """The checkpoint without its weights, and what to ask for each video; whatever can be refused is."""
    with processes.agreed():
        opened = run.open_checkpoint(task)
        asked = {film: _request(opened, task, film, tail, source) for film, tail in todo.items()}
        needed = max(long_video.needed_bytes(opened, request) for request in asked.values())
        opened.check_memory(run.adapter_bytes(opened, task, next(iter(asked.values())).options[0]), needed)
    return opened, asked


def _request(opened: Opened, task: InSegments, film: Film, tail: Tail | None, source: Mapping[str, Any]) -> LongRequest:
    options = dataclasses.replace(
        task.options(),
        output="frames",
        seed=[job.seed for job in film],
        negative_prompt=[job.negative_prompt for job in film],
    )
    enhance_hf = {"auto": None, "on": True, "off": False}[task.enhance_hf]
    return long_video.request(
        opened,
        [job.prompt for job in film],
        len(film),
        options,
        Links(task.num_cond_frames, task.kv_cache, enhance_hf),
        refine=("spatial" if task.spatial_only else "spatio-temporal") if task.refine else "off",
        start=tail,
        **source,
    )


def _make_segments(pipe: Pipeline, task: InSegments, film: Film, asked: LongRequest) -> None:
    folder = SegmentFolder.beside(film[0].file(task.out))
    settings = list(_segment_settings(task, film))
    with run.progress("steps") as on_step:
        each = tuple(dataclasses.replace(options, on_step=on_step) for options in asked.options)
        for segment in long_video.segments(pipe, dataclasses.replace(asked, options=each)):
            if processes.is_main():
                path = folder.add(segment, Fraction(task.fps), settings[segment.index])
                print(f"{path}: segment {segment.index + 1} of {len(film)}", file=sys.stderr)
            del segment  # or it would be alive while the next one is made


def _segment_settings(task: InSegments, film: Film) -> Iterator[dict[str, Any]]:
    """What each segment can be made again from; their number is no matter of theirs."""
    for index, job in enumerate(film):
        settings = outputs.settings(task, job) | {"segment": index}
        yield {name: value for name, value in settings.items() if name != "num_segments"}


def _film_settings(task: InSegments, film: Film) -> dict[str, Any]:
    each = [{"prompt": j.prompt, "negative_prompt": j.negative_prompt, "seed": j.seed} for j in film]
    return outputs.settings(task, film[0]) | {"segments": each}
