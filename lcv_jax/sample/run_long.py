"""What the commands for long videos do: segment by segment into a folder, joined when all are there."""

import dataclasses
import sys
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from lcv_jax.data import files
from lcv_jax.errors import InputError
from lcv_jax.sample import long_video, outputs, run
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.long_tasks import InSegments
from lcv_jax.sample.long_video import Links, LongRequest
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.segment_folder import SegmentFolder

Film = tuple[Job, ...]


def make(task: InSegments) -> None:
    """Writes every video that the task asks for and prints its name; raises InputError before the first if it can."""
    films = task.films()
    todo = [film for film in films if _check_folder(task, film) < len(film)]
    # What is finished needs joining only, and for that no weights.
    pipe, requests = _load(task, todo) if todo else (None, {})
    for film in films:
        out = film[0].file(task.out)
        if film in requests:
            _make_segments(pipe, task, film, requests[film])
        SegmentFolder.beside(out).join(len(film), out, _film_settings(task, film))
        print(out)


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


def _load(task: InSegments, films: list[Film]) -> tuple[Pipeline, dict[Film, LongRequest]]:
    """The model, and what to ask of it for each video; whatever can be refused is before weights are read."""
    source, opened = task.read(), run.open_checkpoint(task)
    asked = {film: _request(opened, task, film, source) for film in films}
    needed = max(long_video.needed_bytes(opened, request) for request in asked.values())
    opened.check_memory(run.adapter_bytes(opened, task, asked[films[0]].options[0]), needed)
    return run.load(opened, task), asked


def _request(opened: Opened, task: InSegments, film: Film, source: Mapping[str, Any]) -> LongRequest:
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
        start=SegmentFolder.beside(film[0].file(task.out)).tail(),
        **source,
    )


def _make_segments(pipe: Pipeline, task: InSegments, film: Film, asked: LongRequest) -> None:
    folder = SegmentFolder.beside(film[0].file(task.out))
    settings = list(_segment_settings(task, film))
    with run.progress("steps") as on_step:
        each = tuple(dataclasses.replace(options, on_step=on_step) for options in asked.options)
        for segment in long_video.segments(pipe, dataclasses.replace(asked, options=each)):
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
