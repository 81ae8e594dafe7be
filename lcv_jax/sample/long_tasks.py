"""The commands for long videos: one prompt for all segments, or one a segment."""

import abc
import dataclasses
import pathlib
from typing import Annotated, Any, Literal

import tyro

from lcv_jax.data import images, video
from lcv_jax.errors import InputError
from lcv_jax.sample.jobs import Job, read_jobs, read_segments
from lcv_jax.sample.options import FPS, whole
from lcv_jax.sample.tasks import Common


@dataclasses.dataclass(frozen=True, kw_only=True)
class InSegments(Common, abc.ABC):
    """Options of every task that makes a video in segments."""

    image: pathlib.Path | None = None
    """Picture that the video starts with."""
    video: pathlib.Path | None = None
    """Video that the first segment continues; it is not repeated in the output."""
    num_frames: int | None = None
    """Of a segment at 15 frames a second, those that it shares with the one before included: 4n + 1, by default 93."""
    num_cond_frames: int | None = None
    """Of the last frames of a segment, seen by the next one: 4n + 1, by default 13."""
    kv_cache: bool = True
    """Compute the condition's keys and values once, not at every step."""
    enhance_hf: Literal["auto", "on", "off"] = "auto"
    """Schedule with a uniform tail for finer detail in all segments that continue one; auto is on unless distilled."""
    resume: bool = False
    """Go on behind the segments that an earlier run of the same command finished, if there are any."""

    def left_out(self) -> dict[str, Any]:
        return super().left_out() | {"num_cond_frames": self.defaults.num_cond_frames}

    @abc.abstractmethod
    def films(self) -> list[tuple[Job, ...]]:
        """The videos to make, as a job for each of their segments."""

    def read(self) -> dict[str, object]:
        """The picture or video to start from, as `Pipeline.long_video` takes it."""
        if self.image is not None and self.video is not None:
            raise InputError("--image and --video are both given: a long video starts with one of them")
        if self.image is not None:
            return {"image": images.read_image(self.image)}
        if self.video is not None:
            count = whole("--num-cond-frames", self.num_cond_frames, 1)
            return {"video": video.read_video(self.video, fps=FPS, last=count).frames}
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Long(InSegments):
    """Long video of one prompt: each segment of 93 frames continues the last 13 of the one before. Finished segments
    are kept in a folder beside the output, NAME.segments, from which --resume goes on, after a kill or for more."""

    num_segments: int
    """How many; N segments have 93 + 80 (N - 1) frames."""

    def films(self) -> list[tuple[Job, ...]]:
        """Segment i has seed + i."""
        whole("--num-segments", self.num_segments, 1)
        jobs = read_jobs(self.prompt, self.prompts, self.negative_prompt, self.seed, self.videos_per_prompt)
        return [tuple(dataclasses.replace(j, seed=j.seed + i) for i in range(self.num_segments)) for j in jobs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interactive(InSegments):
    """Long video with a prompt for each segment: --prompts holds one a line. Finished segments are kept in a folder
    beside the output, NAME.segments: add lines, or change those of segments to come, and go on with --resume."""

    def films(self) -> list[tuple[Job, ...]]:
        if self.prompt is not None or self.prompts is None:
            raise InputError("interactive takes its prompts from --prompts FILE, one a segment, and no --prompt")
        if self.videos_per_prompt != 1:
            raise InputError(
                f"--videos-per-prompt {self.videos_per_prompt}: interactive makes one video of all prompts"
            )
        return [tuple(read_segments(self.prompts, self.negative_prompt, self.seed))]


Task = Annotated[Long, tyro.conf.subcommand("long")] | Annotated[Interactive, tyro.conf.subcommand("interactive")]
