"""The command that measures a checkpoint: its options, and what is done with them.

Everything is pinned: the noise of record i and draw k, and prompt and seed of sample i, are the same for every
checkpoint that is measured with the same options.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from lcv_jax.data.files import check_writable, replacing
from lcv_jax.data.images import write_png
from lcv_jax.data.shards import Dataset
from lcv_jax.data.sizes import parse_size
from lcv_jax.data.toy import Form, ToySource
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from lcv_jax.eval import sheets
from lcv_jax.eval.drift import drift, films
from lcv_jax.eval.held_out import HeldOut
from lcv_jax.eval.judging import tally, verdict
from lcv_jax.eval.reconstruction import reconstructed
from lcv_jax.eval.refining import Refining, Way, refined
from lcv_jax.eval.sampling import Judged, Sampling
from lcv_jax.sample.defaults import TOY, Defaults
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import DISTILLED_LORA, FPS, Options
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.sample.run import keep_compiled
from lcv_jax.train.build import check_encoders
from lcv_jax.train.metrics import values

JUDGED = ("t2v", "i2v", "vc")


@dataclasses.dataclass(frozen=True)
class Eval:
    """Measure a checkpoint: --data for the held-out loss, --toy for the judge, or both."""

    out: str
    """JSON file."""
    checkpoint: str | None = None
    """A checkpoint in either layout, or a hub id; export a run first. Left out: the one that comes with the package."""
    data: str | None = None
    """A dataset that lcv_jax.data.cache wrote of clips that were not trained on."""
    toy: int = 0
    """Records of the toy world's held-out split that are sampled and judged, and reconstructed."""
    tasks: tuple[Literal["t2v", "i2v", "vc", "long", "reconstruction", "refine"], ...] = ("t2v",)
    """What is measured: of --data the loss of the first three, of --toy what the judge says of them."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Of the toy world's prompts."""
    objects: tuple[int, ...] = (1,)
    """How many objects a clip of the toy world may have."""
    size: str = "x".join(map(str, TOY.size))
    """Of samples, HxW."""
    frames: int = TOY.num_frames
    """Of samples, and of a segment of long; 1 makes pictures."""
    cond_frames: int = TOY.num_cond_frames
    """That vc and the segments of long are given, 4n + 1."""
    films: int = 16
    """Long videos, of records whose objects stay in place."""
    segments: int = 12
    """Of a long video."""
    refine_size: str = "x".join(map(str, TOY.refine_size))
    """Of refined clips, HxW; they are refined from --size."""
    refine_mode: Literal["spatial", "spatio-temporal"] = "spatial"
    """What is refined: the size, or twice the frame rate too."""
    refine_dense: str | None = None
    """LoRA file of refinement with dense attention; left out: the checkpoint's own."""
    refine_bsa: str | None = None
    """LoRA file of refinement with the checkpoint's block sparse attention; left out: the checkpoint's own."""
    distilled: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Sample with the distilled schedule and the checkpoint's cfg_step LoRA."""
    steps: int | None = None
    """Of sampling: by default 50, distilled 16."""
    guidance: float | None = None
    """Of sampling: by default 4, distilled 1, which is none."""
    enhance_hf: Literal["auto", "on", "off"] = "auto"
    """Schedule of vc and long, as sample.py has it."""
    seed: int = 0
    """Of the first sample and of the noise of the loss."""
    draws: int = 1
    """Noise levels that each record is measured at."""
    bins: int = 10
    """Parts of [0, 1] in which the loss is told by its noise level."""
    batch: int = 8
    """Records or samples at once."""
    max_text_tokens: int | None = None
    """Length of the text, the one trained with; by default the checkpoint's, of published ones 512."""
    loras: tuple[str, ...] = ()
    """LoRA files that are active."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """By default bfloat16, on a CPU float32."""
    mesh: str | None = None
    """Devices that share the work, such as data=8."""
    compile_cache: str = "~/.cache/lcv_jax/xla"
    """Where compiled programs are kept for the next run; "" for nowhere."""
    clips: str | None = None
    """Folder for the samples, to look at."""
    sheet: str | None = None
    """PNG files of the first samples, prompts and verdicts: FILE.png gives FILE-t2v-en.png and so on."""

    def run(self) -> dict[str, Any]:
        """Measures and writes the JSON file, which is also returned."""
        self._check()
        dataset = None if self.data is None else Dataset(self.data)
        keep_compiled(self.compile_cache)
        opened = Opened.open(self.checkpoint, self.dtype, self.mesh)
        if dataset is not None:
            check_encoders(opened.folder, opened.files, [dataset])
        opened.check_memory()
        if self.distilled:
            opened.lora_file(DISTILLED_LORA)
        settings = self._filled_in(opened.defaults)
        pipe = Pipeline.load(opened)
        for path in self.loras:
            pipe.load_lora(path, path)
        found = {"settings": dataclasses.asdict(settings)}
        found |= settings.measured(pipe, dataset)
        with replacing(self.out) as aside:
            aside.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        return found

    def _filled_in(self, defaults: Defaults) -> "Eval":
        """With what is left out; steps and guidance are those of the toy world's model."""
        told = {"steps": self.steps, "guidance": self.guidance}
        told = {name: value for name, value in told.items() if value is not None}
        options = Options(**TOY.filled_in({"distilled": self.distilled} | told))
        tokens = self.max_text_tokens or defaults.max_text_tokens
        return dataclasses.replace(self, max_text_tokens=tokens, steps=options.run_steps, guidance=options.run_guidance)

    def _check(self) -> None:
        """What can be refused before anything is opened."""
        if self.data is None and not self.toy and "long" not in self.tasks:
            raise InputError("nothing to measure: give --data DATASET, --toy COUNT, or both")
        if self.data is not None and not set(self.tasks) & set(JUDGED):
            raise InputError(f"--data has the loss of {', '.join(JUDGED)}: add one of them to --tasks, or leave it out")
        for task in ("reconstruction", "refine"):
            if task in self.tasks and not self.toy:
                raise InputError(f"--tasks {task}: is of clips of the toy world, give --toy COUNT")
        continued = "long" in self.tasks or (self.toy and "vc" in self.tasks)
        if continued and self.frames <= self.cond_frames:
            raise InputError(f"--frames {self.frames}: vc and long need more than --cond-frames {self.cond_frames}")
        for name in ("draws", "bins", "batch", "films", "segments"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: expected at least 1")
        if self.distilled and self.enhance_hf == "on":
            raise InputError("--enhance-hf on: is not for the distilled schedule; leave out it or --distilled")
        if self.distilled and "refine" in self.tasks:
            raise InputError("--tasks refine: has steps of its own; measure it without --distilled")
        if self.max_text_tokens is not None and self.max_text_tokens < 1:
            raise InputError(f"--max-text-tokens {self.max_text_tokens}: expected at least 1")
        ToySource(self.toy, self.seed, (Form(parse_size(self.size), self.frames),), self.objects)
        check_writable(self.out, ".json")
        if self.sheet is not None:
            check_writable(self.sheet, ".png")

    def measured(self, pipe: Pipeline, dataset: Dataset | None) -> dict[str, Any]:
        """{"loss", "judge", "long", "reconstruction", "refine"}, as far as they are asked for."""
        found: dict[str, Any] = {}
        judged = [task for task in JUDGED if task in self.tasks]
        if dataset is not None:
            how = HeldOut(
                self.draws, self.bins, self.batch, self.max_text_tokens, self.cond_frames, self.seed, self.loras
            )
            found["loss"] = {task: values(how.loss(pipe, dataset, task)) for task in judged}
        if judged and self.toy:
            each = [(task, language) for task in judged for language in self.languages]
            found["judge"] = {f"{task} {language}": self._judged(pipe, task, language) for task, language in each}
        if "long" in self.tasks:
            found["long"] = {language: self._long(pipe, language) for language in self.languages}
        if "reconstruction" in self.tasks:
            found["reconstruction"] = {
                name: self._reconstruction(pipe, name, frames)
                for name, frames in {"clips": self.frames, "pictures": 1}.items()
            }
        if "refine" in self.tasks:
            found["refine"] = {language: self._refine(pipe, language) for language in self.languages}
        return found

    def _judged(self, pipe: Pipeline, task: Judged, language: str) -> dict[str, Any]:
        """See `judging.tally`."""
        sampling, verdicts, shown = self._sampling(), [], []
        for record, clip in sampling.clips(pipe, sampling.source(self.toy, self.objects), task, language):
            verdicts.append(verdict(task, clip, record["facts"], self.cond_frames))
            if len(shown) < sheets.CLIPS:
                shown.append((clip, record["caption_en"], verdicts[-1]))
            if self.clips is not None and self.frames > 1:
                path = pathlib.Path(self.clips) / f"{task}-{language}-{len(verdicts) - 1:04d}.mp4"
                write_video(path, clip, FPS, {"prompt": record[f"caption_{language}"], "scores": verdicts[-1].scores})
        self._write_sheet(f"{task}-{language}", lambda: sheets.judged_sheet(*zip(*shown, strict=True), language))
        return tally(verdicts)

    def _long(self, pipe: Pipeline, language: str) -> dict[str, Any]:
        """See `drift.drift`."""
        made = list(films(pipe, self._sampling(), self.films, self.segments, self.objects, language))
        self._write_sheet(f"long-{language}", lambda: sheets.long_sheet(made, language))
        return drift(made)

    def _reconstruction(self, pipe: Pipeline, name: str, frames: int) -> dict[str, Any]:
        """See `reconstruction.Reconstructed.told`."""
        found = reconstructed(pipe, self._sampling(), self.toy, self.objects, frames)
        self._write_sheet(f"reconstruction-{name}", lambda: sheets.reconstruction_sheet(found))
        return found.told()

    def _refine(self, pipe: Pipeline, language: str) -> dict[str, Any]:
        """Of each way, see `refining.Refined.told`."""
        ways = (
            Way("upsampled", refines=False),
            Way("dense", lora=self.refine_dense),
            Way("bsa", lora=self.refine_bsa, sparse="config"),
        )
        how = Refining(
            parse_size(self.refine_size), self.refine_mode, self.steps, self.max_text_tokens, self.seed, self.loras
        )
        sampling = self._sampling()
        source = how.source(sampling, self.toy, self.objects)
        found = list(refined(pipe, how, sampling, ways, source, language))
        self._write_sheet(f"refine-{language}", lambda: sheets.refined_sheet(found))
        return {each.way.name: each.told() for each in found}

    def _write_sheet(self, name: str, sheet: Callable[[], np.ndarray]) -> None:
        if self.sheet is not None:
            path = pathlib.Path(self.sheet)
            write_png(path.with_stem(f"{path.stem}-{name}"), sheet(), {"settings": dataclasses.asdict(self)})

    def _sampling(self) -> Sampling:
        return Sampling(
            size=parse_size(self.size),
            frames=self.frames,
            cond_frames=self.cond_frames,
            steps=self.steps,
            guidance=self.guidance,
            distilled=self.distilled,
            max_text_tokens=self.max_text_tokens,
            loras=self.loras,
            seed=self.seed,
            batch=self.batch,
            enhance_hf={"auto": None, "on": True, "off": False}[self.enhance_hf],
        )
