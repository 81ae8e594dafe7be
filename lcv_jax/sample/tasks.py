"""The command's tasks and their options: each reads its own input, makes a request of it and shows the result."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from lcv_jax.data import images, video
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import Kind
from lcv_jax.sample import request
from lcv_jax.sample.defaults import PUBLISHED, TOY, Defaults
from lcv_jax.sample.jobs import Job, read_jobs
from lcv_jax.sample.options import FPS, REFINED_FPS, Options
from lcv_jax.sample.request import Request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every task. Those left out are filled in at once, from the checkpoint's defaults."""

    checkpoint: str | None = None
    """Directory in the published layout or in ours, or a hub id such as org/name. Left out: the toy world's model that
    comes with the package, and 64 x 64, 13 frames, 5 of them given to continuations."""
    out: pathlib.Path
    """File to write: .mp4, or .png with --num-frames 1. Several videos get the prompt's number and the seed added.
    Missing folders are made."""
    prompt: str | None = None
    """What the video shows, in any language."""
    prompts: pathlib.Path | None = None
    """Instead of --prompt: a text file, one prompt a line, or .jsonl with prompt, negative_prompt, seed."""
    negative_prompt: str | None = None
    """What it should not show, by default a list of faults; used when guidance is above 1."""
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
    num_frames: int | None = None
    """Of the whole video at 15 frames a second, the condition included: 4n + 1, by default 93."""
    steps: int | None = None
    """Sampling steps: 50, distilled 16."""
    guidance: float | None = None
    """CFG-zero* scale: 4, distilled 1, which is none."""
    distilled: bool = False
    """Use the distilled schedule with the cfg_step LoRA."""
    lora: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further LoRA file, FILE or FILE@SCALE; may be given several times."""
    posterior: Literal["sample", "mode"] = "sample"
    """Of the autoencoder, for images and videos given."""
    max_text_tokens: int | None = None
    """Longer prompts are cut with a warning; by default 512."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """bfloat16, on a CPU float32."""
    check_finite: bool = False
    """Refuse weights that hold NaN or infinity, naming the tensor; reading takes longer."""
    vae_tile: int | None = None
    """Run the autoencoder in overlapping tiles of this many pixels, a multiple of 16: less memory, small differences
    at their edges."""
    refine: bool = False
    """Then refine it to 720p and 30 frames a second; the toy world's to 128 x 128."""
    spatial_only: bool = False
    """Refine the size and keep the frame rate."""
    save_latents: pathlib.Path | None = None
    """Also write the normalised latents (1, T, h, w, C), condition included, as .npy."""
    weights: Literal["int8", "fp8"] | None = None
    """Keep the projections of all blocks in eight bits: half the memory of bfloat16, small differences."""
    offload: str = ""
    """What rests in the host's memory, of text_encoder (but for prompts) and kv_cache (but for the layer at work)."""
    compile_cache: str = "~/.cache/lcv_jax/xla"
    """Where compiled programs are kept for the next run; "" for nowhere."""
    compile_only: bool = False
    """Compile what this command needs into --compile-cache, without reading weights, and end."""
    mesh: str | None = None
    """How devices share the work, such as fsdp=4,context=2: data (several videos at once), fsdp (weights are cut),
    context (a video's tokens), tensor (heads); -1 is the rest of the devices. Left out: one device."""
    coordinator: str | None = None
    """HOST:PORT of process 0, when several processes share a mesh, each started with all of these options; or auto
    under Slurm, Kubernetes or Open MPI. Process 0 writes the files; the others need the inputs too."""
    num_processes: int | None = None
    """With --coordinator HOST:PORT: how many there are."""
    process_id: int | None = None
    """With --coordinator HOST:PORT: which of them this is, from 0."""

    def __post_init__(self):
        for name, value in self.left_out().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @property
    def defaults(self) -> Defaults:
        """Of the checkpoint."""
        return TOY if self.checkpoint is None else PUBLISHED

    def left_out(self) -> dict[str, Any]:
        """What options are that are None."""
        found = self.defaults.of_run(self.distilled) | {"negative_prompt": self.defaults.negative_prompt}
        if self.defaults.size is not None and (self.height, self.width, self.resolution) == (None, None, None):
            found |= dict(zip(("height", "width"), self.defaults.size, strict=True))
        return found

    def options(self) -> Options:
        """All but what differs from job to job."""
        if (self.height is None) != (self.width is None):
            raise InputError(f"--height {self.height} --width {self.width}: give both or none")
        return Options(
            steps=self.steps,
            guidance=self.guidance,
            distilled=self.distilled,
            loras=tuple(self.adapters()),
            resolution=self.resolution,
            size=None if self.height is None else (self.height, self.width),
            num_frames=self.num_frames,
            max_text_tokens=self.max_text_tokens,
            posterior=self.posterior,
            output="latents",
        )

    def adapters(self) -> dict[str, tuple[str, float]]:
        """The LoRA files given, with their scales, under the names that the options use."""
        return {f"--lora {given}": _path_and_scale(given) for given in self.lora}

    def jobs(self) -> list[Job]:
        """What there is to make."""
        return read_jobs(self.prompt, self.prompts, self.negative_prompt, self.seed, self.videos_per_prompt)

    def source(self) -> np.ndarray | None:
        """The frames to start from, (F, H, W, 3) uint8, if there are any."""
        return None

    def request(self, source: np.ndarray | None, prompts: Sequence[str], options: Options) -> Request:
        """What to ask the pipeline for: a video of each prompt. source: what `source` gave, read once for all."""
        return request.text_to_video(prompts, options)

    def refine_options(self, options: Options) -> Options:
        """Refinement has its own schedule and size."""
        own = {"size": self.defaults.refine_size, "resolution": None, "steps": None, "guidance": 1.0}
        return dataclasses.replace(options, **own, distilled=False, loras=(), latents=None)

    def refine_cond_frames(self) -> int:
        """Frames that the refined video starts with."""
        return 0

    def refine_condition(self, source: np.ndarray | None) -> np.ndarray | None:
        """Those frames, uint8 (F, H, W, 3)."""
        return None

    @property
    def fps(self) -> int:
        """Of the file."""
        return REFINED_FPS if self.refine and not self.spatial_only else FPS

    def shown(self, frames: np.ndarray) -> Iterable[np.ndarray]:
        """What the file will show, frame by frame. frames: what was made, (F, H, W, 3) uint8."""
        return frames


@dataclasses.dataclass(frozen=True, kw_only=True)
class T2V(Common):
    """Text to video, or to an image with --num-frames 1 --out FILE.png."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class I2V(Common):
    """Image to video: the first frame is the image."""

    image: pathlib.Path
    """Picture of any size and format."""

    def source(self) -> np.ndarray:
        return images.as_frames(images.read_image(self.image))

    def request(self, source: np.ndarray, prompts: Sequence[str], options: Options) -> Request:
        return request.image_to_video(source[0], prompts, options)

    def refine_cond_frames(self) -> int:
        return 1

    def refine_condition(self, source: np.ndarray) -> np.ndarray:
        return source


@dataclasses.dataclass(frozen=True, kw_only=True)
class VC(Common):
    """Video continuation: writes the input, at 15 frames a second, and the new frames behind it."""

    video: pathlib.Path
    """Video of any size, codec and frame rate."""
    num_cond_frames: int | None = None
    """Of the input's last frames, seen by the model: 4n + 1, by default 13."""
    kv_cache: bool = True
    """Compute the condition's keys and values once, not at every step."""
    enhance_hf: Literal["auto", "on", "off"] = "auto"
    """Schedule with a uniform tail for finer detail; auto is on unless distilled."""
    native_size: bool = False
    """Write at the input's own size instead of the size generated at."""

    def left_out(self) -> dict[str, Any]:
        return super().left_out() | {"num_cond_frames": self.defaults.num_cond_frames}

    def source(self) -> np.ndarray:
        """The input's last frames."""
        if self.num_cond_frames < 1:
            raise InputError(f"--num-cond-frames {self.num_cond_frames}: expected 4n + 1")
        frames = video.read_video(self.video, fps=FPS, last=self.num_cond_frames).frames
        if len(frames) < self.num_cond_frames:
            raise InputError(
                f"--video {self.video}: has {len(frames)} frames at {FPS} a second, fewer than "
                f"--num-cond-frames {self.num_cond_frames}: give a longer video or a smaller number, 4n + 1"
            )
        return frames

    def request(self, source: np.ndarray, prompts: Sequence[str], options: Options) -> Request:
        return request.continuation(
            source,
            prompts,
            options,
            num_cond_frames=self.num_cond_frames,
            kv_cache=self.kv_cache,
            enhance_hf={"auto": None, "on": True, "off": False}[self.enhance_hf],
        )

    def refine_cond_frames(self) -> int:
        return self.num_cond_frames * self.fps // FPS

    def refine_condition(self, source: np.ndarray) -> np.ndarray:
        """The input's last frames at the refined rate."""
        return video.read_video(self.video, fps=self.fps, last=self.refine_cond_frames()).frames

    def shown(self, frames: np.ndarray) -> Iterator[np.ndarray]:
        """The input at the file's rate, then what is new."""
        size = frames.shape[1:3]
        if self.native_size:
            info = video.probe(self.video)
            size = (info.height // 2 * 2, info.width // 2 * 2)  # h264 in yuv420p wants even sides
        yield from video.stream_video(self.video, fps=self.fps, size=size)
        for frame in frames[self.refine_cond_frames() if self.refine else self.num_cond_frames :]:
            yield images.resize_lanczos(frame[None], size)[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refine(Common):
    """Refines a video that is there: to 720p, and from 15 to 30 frames a second. Sides are multiples of 64."""

    video: pathlib.Path
    """What to refine, taken at 15 frames a second."""
    image: pathlib.Path | None = None
    """The picture that the video starts with, at its full size."""
    prompt: str | None = ""
    """What the video shows; may be empty."""
    refine: tyro.conf.Suppress[bool] = True

    def left_out(self) -> dict[str, Any]:
        """Refinement has a size, a schedule and no guidance of its own."""
        found = super().left_out()
        found = {name: found[name] for name in ("num_frames", "max_text_tokens", "negative_prompt")}
        if self.defaults.refine_size is not None and (self.height, self.width, self.resolution) == (None, None, None):
            found |= dict(zip(("height", "width"), self.defaults.refine_size, strict=True))
        return found

    def jobs(self) -> list[Job]:
        prompt = self.prompt if self.prompts is None else None
        return read_jobs(prompt, self.prompts, self.negative_prompt, self.seed, self.videos_per_prompt, shortest=0)

    def source(self) -> np.ndarray:
        return video.read_video(self.video, fps=FPS).frames

    def request(self, source: np.ndarray, prompts: Sequence[str], options: Options) -> Request:
        return Request(tuple(prompts), options, Kind.REFINE, source.shape[1:3])

    def refine_cond_frames(self) -> int:
        return 0 if self.image is None else 1

    def refine_condition(self, source: np.ndarray) -> np.ndarray | None:
        return None if self.image is None else images.as_frames(images.read_image(self.image))

    def refine_options(self, options: Options) -> Options:
        if options.guidance not in (None, 1.0):
            raise InputError(f"--guidance {options.guidance:g}: refinement has none, leave it out")
        return dataclasses.replace(options, guidance=1.0)


Task = (
    Annotated[T2V, tyro.conf.subcommand("t2v")]
    | Annotated[I2V, tyro.conf.subcommand("i2v")]
    | Annotated[VC, tyro.conf.subcommand("vc")]
    | Annotated[Refine, tyro.conf.subcommand("refine")]
)


def _path_and_scale(given: str) -> tuple[str, float]:
    path, at, scale = given.rpartition("@")
    try:
        number = float(scale) if at else None
    except ValueError:
        number = None  # an @ in the file's name
    if number is None:
        return given, 1.0
    if not math.isfinite(number):
        raise InputError(f"--lora {given}: the scale is not finite, expected a number such as 0.8")
    return path, number
