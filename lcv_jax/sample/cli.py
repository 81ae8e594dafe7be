"""The command behind sample.py and lcv-sample: text, image and video continuation to video files."""

import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib import metadata
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from lcv_jax import __version__
from lcv_jax.data import files, images, video, video_writer
from lcv_jax.errors import InputError
from lcv_jax.sample import jobs
from lcv_jax.sample.denoise import Step
from lcv_jax.sample.jobs import Job
from lcv_jax.sample.options import FPS, NUM_FRAMES, Options

# Our own, of the kind that every official demo uses: a list of faults.
NEGATIVE_PROMPT = (
    "overexposed highlights, washed-out grey colours, motionless still frame, blurry smeared details, flicker, "
    "subtitles, captions and logos, low quality, heavy compression blocks, badly drawn hands, extra or fused fingers, "
    "deformed limbs, distorted face, messy background full of people, walking backwards"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every task."""

    checkpoint: str
    """Directory in the published layout or in ours, or a hub id such as org/name."""
    out: pathlib.Path
    """File to write: .mp4, or .png with --num-frames 1. Several videos get the prompt's number and the seed added."""
    prompt: str | None = None
    """What the video shows, in any language."""
    prompts: pathlib.Path | None = None
    """Instead of --prompt: a text file, one prompt a line, or .jsonl with prompt, negative_prompt, seed."""
    negative_prompt: str = NEGATIVE_PROMPT
    """What it should not show; used when guidance is above 1."""
    seed: int = 0
    """Of the initial noise; same seed, same video on the same kind of device."""
    videos_per_prompt: int = 1
    """Videos of each prompt, with seeds S, S + 1, ..."""
    height: int | None = None
    """In pixels, a multiple of 16; goes with --width."""
    width: int | None = None
    """In pixels, a multiple of 16; goes with --height."""
    resolution: Literal["480p", "720p"] | None = None
    """Instead of height and width: the trained size nearest to the input's shape."""
    num_frames: int = NUM_FRAMES
    """Of the whole video at 15 frames a second, the condition included: 4n + 1."""
    steps: int | None = None
    """Sampling steps: 50, distilled 16."""
    guidance: float | None = None
    """CFG-zero* scale: 4, distilled 1, which is none."""
    distilled: bool = False
    """Use the distilled schedule with the cfg_step LoRA."""
    lora: tuple[str, ...] = ()
    """Further LoRA files, FILE or FILE@SCALE."""
    posterior: Literal["sample", "mode"] = "sample"
    """Of the autoencoder, for images and videos given."""
    max_text_tokens: int = 512
    """Longer prompts are cut with a warning."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """bfloat16, on a CPU float32."""
    save_latents: pathlib.Path | None = None
    """Also write the normalised latents (1, T, h, w, C), condition included, as .npy."""
    compile_cache: str = "~/.cache/lcv_jax/xla"
    """Where compiled programs are kept for the next run; "" for nowhere."""

    def options(self) -> Options:
        """All but what differs from job to job."""
        if (self.height is None) != (self.width is None):
            raise InputError(f"--height {self.height} --width {self.width}: give both or none")
        return Options(
            steps=self.steps,
            guidance=self.guidance,
            distilled=self.distilled,
            loras=[_lora_name(i) for i in range(len(self.lora))],
            resolution=self.resolution,
            size=None if self.height is None else (self.height, self.width),
            num_frames=self.num_frames,
            max_text_tokens=self.max_text_tokens,
            posterior=self.posterior,
            output="latents",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class T2V(Common):
    """Text to video, or to an image with --num-frames 1 --out FILE.png."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class I2V(Common):
    """Image to video: the first frame is the image."""

    image: pathlib.Path
    """Picture of any size and format."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class VC(Common):
    """Video continuation: writes the input, at 15 frames a second, and the new frames behind it."""

    video: pathlib.Path
    """Video of any size, codec and frame rate."""
    num_cond_frames: int = 13
    """Of the input's last frames, seen by the model: 4n + 1."""
    kv_cache: bool = True
    """Compute the condition's keys and values once, not at every step."""
    enhance_hf: Literal["auto", "on", "off"] = "auto"
    """Schedule with a uniform tail for finer detail; auto is on unless distilled."""
    native_size: bool = False
    """Write at the input's own size instead of the size generated at."""


Task = (
    Annotated[T2V, tyro.conf.subcommand("t2v")]
    | Annotated[I2V, tyro.conf.subcommand("i2v")]
    | Annotated[VC, tyro.conf.subcommand("vc")]
)


def main(args: list[str] | None = None) -> None:
    """Runs the command; exits with 2 and one line on bad input."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    task = tyro.cli(Task, prog="sample.py", description=__doc__, args=args)
    try:
        run(task)
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted, nothing half-written is left", 130))


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def run(task: Common) -> None:
    """Checks everything that can be checked without the weights, loads them, makes one video after the other."""
    options = task.options()
    todo = jobs.plan(task.prompt, task.prompts, task.negative_prompt, task.seed, task.videos_per_prompt)
    source = _read_source(task)
    for job in todo:
        files.check_writable(job.file(task.out), ".png" if task.out.suffix.lower() == ".png" else ".mp4")
        if task.save_latents is not None:
            files.check_writable(job.file(task.save_latents), ".npy")
    if task.out.suffix.lower() == ".png" and options.frame_count() != 1:
        raise InputError(f"--out {task.out}: a .png holds one frame: give --num-frames 1 or a name that ends in .mp4")
    pipe = _load(task)
    for job in todo:
        _make(pipe, task, job, source, options)


def _read_source(task: Common) -> np.ndarray | None:
    """The picture, or the condition's frames, (F, H, W, 3) uint8."""
    if isinstance(task, I2V):
        return images.as_frames(images.read_image(task.image))
    if isinstance(task, VC):
        if task.num_cond_frames < 1:
            raise InputError(f"--num-cond-frames {task.num_cond_frames}: expected 4n + 1")
        clip = video.read_video(task.video, fps=FPS, last=task.num_cond_frames)
        if len(clip.frames) < task.num_cond_frames:
            raise InputError(
                f"--video {task.video}: has {len(clip.frames)} frames at {FPS} a second, fewer than "
                f"--num-cond-frames {task.num_cond_frames}: give a longer video or a smaller number, 4n + 1"
            )
        return clip.frames
    return None


def _load(task: Common):
    import jax  # here, so that --help and bad options answer at once

    from lcv_jax.sample.pipeline import Pipeline

    if task.compile_cache:
        jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(task.compile_cache).expanduser()))
    pipe = Pipeline.from_pretrained(task.checkpoint, dtype=task.dtype)
    for i, given in enumerate(task.lora):
        path, scale = _path_and_scale(given)
        pipe.load_lora(path, _lora_name(i), scale)
    return pipe


def _lora_name(i: int) -> str:
    return f"--lora {i}"


def _path_and_scale(given: str) -> tuple[str, float]:
    path, at, scale = given.rpartition("@")
    if at:
        with contextlib.suppress(ValueError):
            return path, float(scale)
    return given, 1.0


def _make(pipe, task: Common, job: Job, source: np.ndarray | None, options: Options) -> None:
    start = time.perf_counter()
    with _progress() as on_step:
        options = dataclasses.replace(options, negative_prompt=job.negative_prompt, seed=job.seed, on_step=on_step)
        given = {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}
        if isinstance(task, VC):
            enhance_hf = {"auto": None, "on": True, "off": False}[task.enhance_hf]
            latents = pipe.continue_video(
                source,
                job.prompt,
                num_cond_frames=task.num_cond_frames,
                kv_cache=task.kv_cache,
                enhance_hf=enhance_hf,
                **given,
            )
        elif isinstance(task, I2V):
            latents = pipe.image_to_video(source[0], job.prompt, **given)
        else:
            latents = pipe.text_to_video(job.prompt, **given)
    frames = pipe.frames(latents)[0]
    _write(task, job, frames, latents)
    print(f"{job.file(task.out)}: {len(frames)} frames in {time.perf_counter() - start:.1f} s", file=sys.stderr)
    print(job.file(task.out))


def _write(task: Common, job: Job, frames: np.ndarray, latents: np.ndarray) -> None:
    settings = _settings(task, job)
    out = job.file(task.out)
    if out.suffix.lower() == ".png":
        images.write_png(out, frames[0], settings)
    elif isinstance(task, VC):
        size = frames.shape[1:3]
        if task.native_size:
            info = video.probe(task.video)
            size = (info.height // 2 * 2, info.width // 2 * 2)  # h264 in yuv420p wants even sides
        video_writer.write_video(out, _continued(task, frames, size), Fraction(FPS), settings)
    else:
        video_writer.write_video(out, frames, Fraction(FPS), settings)
    if task.save_latents is not None:
        with files.replacing(job.file(task.save_latents)) as aside, aside.open("wb") as file:
            np.save(file, latents)


def _continued(task: VC, frames: np.ndarray, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """The input's frames at 15 a second, then the new ones, one by one."""
    yield from video.stream_video(task.video, fps=FPS, size=size)
    for frame in frames[task.num_cond_frames :]:
        yield images.resize_lanczos(frame[None], size)[0]


def _settings(task: Common, job: Job) -> dict[str, Any]:
    """What the file's metadata tell: enough to make the video again."""
    given = {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in dataclasses.asdict(task).items()}
    for name in ("out", "prompts", "videos_per_prompt", "save_latents", "compile_cache"):
        del given[name]
    given |= {"prompt": job.prompt, "negative_prompt": job.negative_prompt, "seed": job.seed}
    versions = {"lcv_jax": __version__} | {name: metadata.version(name) for name in ("jax", "flax")}
    return json.loads(json.dumps({"task": type(task).__name__.lower(), **given, "versions": versions}))


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """A bar over the steps with seconds a step and memory in use."""
    import tqdm

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
    import jax
    import psutil

    stats = jax.local_devices()[0].memory_stats()
    return stats["bytes_in_use"] if stats else psutil.Process().memory_info().rss


if __name__ == "__main__":
    main()
