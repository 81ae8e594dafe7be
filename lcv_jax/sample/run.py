"""What the command does: checks all that can be checked without weights, loads them, makes one video after another."""

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import jax
import psutil
import tqdm

from lcv_jax.errors import InputError
from lcv_jax.models.vae_coding import Tiling
from lcv_jax.sample import outputs
from lcv_jax.sample.denoise import Step
from lcv_jax.sample.jobs import Job, read_jobs
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.plan import plan, run_bytes
from lcv_jax.sample.request import Request
from lcv_jax.sample.tasks import Common


def run(task: Common) -> None:
    """Writes every file that the task asks for and prints its name; raises InputError before the first if it can."""
    options = task.options()
    jobs = read_jobs(task.prompt, task.prompts, task.negative_prompt, task.seed, task.videos_per_prompt)
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
    opened = _open(task)
    _check(opened, task, requests)
    pipe = Pipeline.load(opened, check_finite=task.check_finite)
    for name, (path, scale) in task.adapters().items():
        pipe.load_lora(path, name, scale)
    for job, request in zip(jobs, requests, strict=True):
        _make(pipe, task, job, request)


def _open(task: Common) -> Opened:
    if task.compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(task.compile_cache).expanduser()))
    tiling = None if task.vae_tile is None else Tiling(task.vae_tile, overlap=task.vae_tile // 2)
    return Opened.open(task.checkpoint, task.dtype, vae_tiling=tiling)


def _check(opened: Opened, task: Common, requests: Sequence[Request]) -> None:
    """Raises InputError for what the model cannot do, for LoRAs of another model, and if all does not fit together."""
    given = task.adapters()
    files = [given[name][0] if name in given else opened.lora_file(name) for name in requests[0].options.active_loras]
    adapters = sum(opened.lora_bytes(file) for file in files)
    opened.check_memory(adapters, max(run_bytes(opened, request, plan(opened, request)) for request in requests))


def _make(pipe: Pipeline, task: Common, job: Job, request: Request) -> None:
    start = time.perf_counter()
    with _progress() as on_step:
        options = dataclasses.replace(request.options, on_step=on_step)
        latents = pipe.run(dataclasses.replace(request, options=options))
    frames = pipe.frames(latents)[0]
    out = outputs.write(task, job, frames, latents)
    print(f"{out}: written after {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(out)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Step], None]]:
    """A bar over the steps with seconds a step and memory in use."""
    bar = None

    def on_step(step: Step) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm.tqdm(total=step.total, desc="sampling", unit="step")
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
