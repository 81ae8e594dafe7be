"""The files that the command writes, and the settings in them from which they can be made again."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from fractions import Fraction
from importlib import metadata
from typing import Any

import numpy as np

from lcv_jax import __version__
from lcv_jax.data import files, images, video_writer
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.tasks import Common

# Of the command's options, those that change no video, and those that a job has its own of. On another mesh the same
# video comes out, up to rounding.
_NOT_SETTINGS = (
    *("out", "prompts", "videos_per_prompt", "save_latents", "compile_cache", "check_finite", "resume"),
    *("mesh", "coordinator", "num_processes", "process_id", "offload", "compile_only"),
)


def check(task: Common, jobs: Sequence[Job]) -> None:
    """Raises InputError if one of the files to come could not be written."""
    suffix = ".png" if task.out.suffix.lower() == ".png" else ".mp4"
    for job in jobs:
        files.check_writable(job.file(task.out), suffix)
        if task.save_latents is not None:
            files.check_writable(job.file(task.save_latents), ".npy")


def write(task: Common, job: Job, frames: np.ndarray, latents: np.ndarray) -> pathlib.Path:
    """Writes one job's picture or video and, if wanted, its latents; returns the former's path. frames: (F, H, W, 3)
    uint8. latents: (1, T, h, w, C)."""
    out, made_with = job.file(task.out), settings(task, job)
    if out.suffix.lower() == ".png":
        images.write_png(out, frames[0], made_with)
    else:
        video_writer.write_video(out, task.shown(frames), Fraction(task.fps), made_with)
    if task.save_latents is not None:
        with files.replacing(job.file(task.save_latents)) as aside, aside.open("wb") as file:
            np.save(file, latents)
    return out


def settings(task: Common, job: Job) -> dict[str, Any]:
    """What a job's video can be made again from, as it comes back from JSON."""
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in dataclasses.asdict(task).items()}
    given |= {"prompt": job.prompt, "negative_prompt": job.negative_prompt, "seed": job.seed}
    kept = {name: value for name, value in given.items() if name not in _NOT_SETTINGS}
    versions = {"lcv_jax": __version__} | {name: metadata.version(name) for name in ("jax", "flax")}
    return json.loads(json.dumps({"task": type(task).__name__.lower(), **kept, "versions": versions}))
