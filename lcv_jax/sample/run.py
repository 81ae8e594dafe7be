"""What the command does: checks all that can be checked without weights, loads them, makes one video after another.

Every process of a run does all of it, in the same order; the first one alone writes files and talks.
"""

import collections
import contextlib
import dataclasses
import logging
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
import psutil
import tqdm

from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import Kind
from lcv_jax.models.vae_coding import Tiling
from lcv_jax.parallel import processes
from lcv_jax.sample import ahead, alike, outputs, refine
from lcv_jax.sample.denoise import Step
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options
from lcv_jax.sample.parts import Parts
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.plan import plan, run_bytes
from lcv_jax.sample.request import Request
from lcv_jax.sample.tasks import Common

Refining = tuple[refine.RefinePlan, Options]

logger = logging.getLogger(__name__)


def run(task: Common) -> None:
    """Writes every file that the task asks for and prints its name; raises InputError before the first if it can."""
    with processes.agreed():
        options = task.options()
        jobs = task.jobs()
        if processes.is_main() and not task.compile_only:
            outputs.check(task, jobs)
        if task.out.suffix.lower() == ".png" and options.num_frames != 1:
            raise InputError(
                f"--out {task.out}: a .png holds one frame: give --num-frames 1 or a name that ends in .mp4"
            )
        source = task.source()
    alike.check(task, jobs, {} if source is None else {"input": source})
    with processes.agreed():
        opened = open_checkpoint(task)
        each = opened.placement.batch_multiple
        groups = [jobs[i : i + each] for i in range(0, len(jobs), each)]
        requests = [_request(task, group, options, source) for group in groups]
        _check(opened, task, requests, source)
    if task.compile_only:
        compile_ahead(opened, task, ((request, _refining(opened, task, request, source)) for request in requests))
        return
    pipe = load(opened, task)
    for group, request in zip(groups, requests, strict=True):
        _make(pipe, task, group, request, source)


def _request(task: Common, jobs: Sequence[Job], options: Options, source: np.ndarray | None) -> Request:
    """Several videos as one batch, which differ in what jobs differ in."""
    rows = {"negative_prompt": [job.negative_prompt for job in jobs], "seed": [job.seed for job in jobs]}
    return task.request(source, [job.prompt for job in jobs], dataclasses.replace(options, **rows))


def keep_compiled(folder: str) -> bool:
    """Has JAX keep compiled programs in the folder, for this run and later ones; "" is nowhere. Returns whether it can;
    a folder that cannot be written is told."""
    if not folder:
        return False
    cache = pathlib.Path(folder).expanduser()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except OSError as error:
        logger.warning("--compile-cache %s: cannot be written (%s): programs are compiled anew", cache, error)
        return False
    jax.config.update("jax_compilation_cache_dir", str(cache))
    # The small programs between the large ones are many.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return True


def open_checkpoint(task: Common) -> Opened:
    """The task's checkpoint without its weights."""
    if not keep_compiled(task.compile_cache) and task.compile_only:
        raise InputError("--compile-only needs a place for what it compiles: give --compile-cache a folder to write to")
    tiling = None if task.vae_tile is None else Tiling(task.vae_tile, overlap=task.vae_tile // 2)
    kept = {"weights": task.weights, "offload": task.offload}
    return Opened.open(task.checkpoint, task.dtype, task.mesh, vae_tiling=tiling, **kept)


def load(opened: Opened, task: Common) -> Pipeline:
    """Reads the weights and the LoRA files given."""
    pipe = Pipeline.load(opened, check_finite=task.check_finite)
    _load_loras(pipe, task)
    return pipe


def _load_loras(parts: Parts, task: Common) -> None:
    for name, (path, scale) in task.adapters().items():
        parts.load_lora(path, name, scale)


def compile_ahead(opened: Opened, task: Common, runs: Iterable[tuple[Request, Refining | None]]) -> None:
    """Compiles what requests and the refinements behind them need, each program once; prints their names."""
    start, names = time.perf_counter(), []
    parts = ahead.weightless(opened)
    _load_loras(parts, task)
    programs = ahead.Ahead(parts, names.append)
    programs.loading()
    for request, refining in runs:
        if request.kind is not Kind.REFINE:
            programs.sampling(request)
        if refining is not None:
            programs.refinement(*refining)
    if processes.is_main():
        seconds = time.perf_counter() - start
        counted = ", ".join(f"{count} {name}" for name, count in collections.Counter(names).items())
        print(f"{len(names)} programs compiled in {seconds:.1f} s: {counted}", file=sys.stderr)
        print(jax.config.jax_compilation_cache_dir)


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
    needed = 0 if request.kind is Kind.REFINE else run_bytes(opened, request, plan(opened, request))
    refining = _refining(opened, task, request, source)
    return needed if refining is None else max(needed, refine.run_bytes(opened, *refining))


def _refining(opened: Opened, task: Common, request: Request, source: np.ndarray | None) -> Refining | None:
    """The refinement of each video that a request makes, if there is one."""
    if not task.refine:
        return None
    if request.kind is Kind.REFINE:
        video = source.shape[:3]
    else:
        video = (request.options.num_frames, *plan(opened, request).size)
    options, cond = task.refine_options(request.options), task.refine_cond_frames()
    return refine.plan(opened, video, cond, options, spatial_only=task.spatial_only), options


def _make(pipe: Pipeline, task: Common, jobs: Sequence[Job], request: Request, source: np.ndarray | None) -> None:
    """A batch of videos; each is decoded, refined and written by itself."""
    start = time.perf_counter()
    if request.kind is not Kind.REFINE:
        with progress("sampling") as on_step:
            options = dataclasses.replace(request.options, on_step=on_step)
            sampled = pipe.run(dataclasses.replace(request, options=options))
    for row, job in enumerate(jobs):
        if request.kind is Kind.REFINE:
            frames = source
        else:
            latents = sampled[row : row + 1]
            frames = pipe.frames(latents)[0]
        if task.refine:
            options = dataclasses.replace(request.options, negative_prompt=job.negative_prompt, seed=job.seed)
            refining = task.refine_options(options)
            frames, latents = _refined(pipe, task, job.prompt, refining, frames, task.refine_condition(source))
        if processes.is_main():
            out = outputs.write(task, job, frames, latents)
            print(f"{out}: written after {time.perf_counter() - start:.1f} s", file=sys.stderr)
            print(out)


def _refined(
    pipe: Pipeline, task: Common, prompt: str, options: Options, frames: np.ndarray, condition: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The refined video, uint8 (F, H, W, 3), and its latents (1, T, h, w, C), padding included."""
    with progress("refining") as on_step:
        asked = refine.request(
            pipe.opened,
            frames,
            dataclasses.replace(options, on_step=on_step),
            condition=condition,
            num_cond_frames=0 if condition is None else len(condition),
            spatial_only=task.spatial_only,
        )
        latents = pipe.run_refine(asked, prompt)
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
            bar = tqdm.tqdm(total=step.total, desc=what, unit="step", disable=not processes.is_main())
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
