"""What the command does: checks all that can be checked without weights, loads them, makes one video after another."""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import psutil
import tqdm

from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import Kind
from lcv_jax.models.vae_coding import Tiling
from lcv_jax.sample import outputs, refine
from lcv_jax.sample.denoise import Step
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.plan import plan, run_bytes
from lcv_jax.sample.request import Request
from lcv_jax.sample.tasks import Common


def run(task: Common) -> None:
    """Writes every file that the task asks for and prints its name; raises InputError before the first if it can."""
    options = task.options()
    jobs = task.jobs()
    outputs.check(task, jobs)
    if task.out.suffix.lower() == ".png" and options.num_frames != 1:
        raise InputError(f"--out {task.out}: a .png holds one frame: give --num-frames 1 or a name that ends in .mp4")
    source = task.source()
    requests = [
        task.request(
            source, job.prompt, dataclasses.replace(options, negative_prompt=job.negative_prompt, seed=job.seed)
        )
        for job in jobs
    ]
    opened = open_checkpoint(task)
    _check(opened, task, requests, source)
    pipe = load(opened, task)
    for job, request in zip(jobs, requests, strict=True):
        _make(pipe, task, job, request, source)


def open_checkpoint(task: Common) -> Opened:
    """The task's checkpoint without its weights."""
    if task.compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(task.compile_cache).expanduser()))
    tiling = None if task.vae_tile is None else Tiling(task.vae_tile, overlap=task.vae_tile // 2)
    return Opened.open(task.checkpoint, task.dtype, vae_tiling=tiling)


def load(opened: Opened, task: Common) -> Pipeline:
    """Reads the weights and the LoRA files given."""
    pipe = Pipeline.load(opened, check_finite=task.check_finite)
    for name, (path, scale) in task.adapters().items():
        pipe.load_lora(path, name, scale)
    return pipe


def adapter_bytes(opened: Opened, task: Common, options: Options) -> int:
    """Memory of the LoRAs that the task uses; raises InputError for those of another model."""
    given = task.adapters()
    names = [*options.active_loras, *(["refinement"] if task.refine else [])]
    files = [given[name][0] if name in given else opened.lora_file(name) for name in names]
    return sum(opened.lora_bytes(file) for file in files)


def _check(opened: Opened, task: Common, requests: Sequence[Request], source: np.ndarray | None) -> None:
    """Raises InputError for what the model cannot do, for LoRAs of another model, and if all does not fit together."""
    adapters = adapter_bytes(opened, task, requests[0].options)
    opened.check_memory(adapters, max(_needs(opened, task, request, source) for request in requests))


def _needs(opened: Opened, task: Common, request: Request, source: np.ndarray | None) -> int:
    """Bytes that a run takes beside the weights; raises InputError for what the model cannot do."""
    if request.kind is Kind.REFINE:
        needed, video = 0, source.shape[:3]
    else:
        planned = plan(opened, request)
        needed, video = run_bytes(opened, request, planned), (request.options.num_frames, *planned.size)
    if not task.refine:
        return needed
    options, cond = task.refine_options(request.options), task.refine_cond_frames()
    refined = refine.plan(opened, video, cond, options, spatial_only=task.spatial_only)
    return max(needed, refine.run_bytes(opened, refined, options))


def _make(pipe: Pipeline, task: Common, job: Job, request: Request, source: np.ndarray | None) -> None:
    start = time.perf_counter()
    if request.kind is Kind.REFINE:
        frames = source
    else:
        with progress("sampling") as on_step:
            options = dataclasses.replace(request.options, on_step=on_step)
            latents = pipe.run(dataclasses.replace(request, options=options))
        frames = pipe.frames(latents)[0]
    if task.refine:
        frames, latents = _refined(pipe, task, request, frames, task.refine_condition(source))
    out = outputs.write(task, job, frames, latents)
    print(f"{out}: written after {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(out)


def _refined(
    pipe: Pipeline, task: Common, request: Request, frames: np.ndarray, condition: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The refined video, uint8 (F, H, W, 3), and its latents (1, T, h, w, C), padding included."""
    with progress("refining") as on_step:
        asked = refine.request(
            pipe.opened,
            frames,
            dataclasses.replace(task.refine_options(request.options), on_step=on_step),
            condition=condition,
            num_cond_frames=0 if condition is None else len(condition),
            spatial_only=task.spatial_only,
        )
        latents = pipe.run_refine(asked, request.prompts[0])
    return refine.trimmed(pipe.frames(latents), asked.plan.window)[0], latents


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[Step], None]]:
    """A bar over the steps of each run with seconds a step and memory in use."""
    bar = None

    def on_step(step: Step) -> None:
        nonlocal bar
        if step.index == 0:
            if bar is not None:
                bar.close()
            bar = tqdm.tqdm(total=step.total, desc=what, unit="step")
        bar.set_postfix_str(f"{step.seconds:.2f} s/step, {_memory_in_use() / 2**30:.1f} GiB")
        bar.update()

    try:
        yield on_step
    finally:
        if bar is not None:
            bar.close()


def _memory_in_use() -> int:
    """Of the first device; of a CPU what this process holds."""
    stats = jax.local_devices()[0].memory_stats()
    return stats["bytes_in_use"] if stats else psutil.Process().memory_info().rss
