"""`python -m lcv_jax.eval`: what a checkpoint has learnt: held-out loss, and the toy judge over its samples.

Everything is pinned: the noise of record i and draw k, and prompt and seed of sample i, are the same for every
checkpoint that is measured with the same options.
"""

import dataclasses
import functools
import json
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import numpy as np
import tqdm

from lcv_jax.command_line import parse
from lcv_jax.data.files import check_writable, replacing
from lcv_jax.data.shards import LATENTS, TEXT, Dataset
from lcv_jax.data.sizes import parse_size
from lcv_jax.data.toy import Form, ToySource, score
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Metrics, Trees
from lcv_jax.objectives.pretrain import Batch, ConditionNoise, Pretrain
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import FPS
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.train.build import check_encoders
from lcv_jax.train.metrics import values

logger = logging.getLogger(__name__)

Task = Literal["t2v", "i2v", "vc"]
SCORES = ("colour", "shape", "motion", "count")


@dataclasses.dataclass(frozen=True)
class Eval:
    """Measure a checkpoint: --data for the held-out loss, --toy for the judge, or both."""

    checkpoint: str
    """A checkpoint in either layout, or a hub id; export a run first."""
    out: str
    """JSON file."""
    data: str | None = None
    """A dataset that lcv_jax.data.cache wrote of clips that were not trained on."""
    toy: int = 0
    """Prompts of the toy world's held-out split that are sampled and judged."""
    tasks: tuple[Task, ...] = ("t2v",)
    """Which tasks are measured."""
    languages: tuple[Literal["en", "zh"], ...] = ("en", "zh")
    """Of the toy world's prompts."""
    objects: tuple[int, ...] = (1,)
    """How many objects a clip of the toy world may have."""
    size: str = "64x64"
    """Of samples, HxW."""
    frames: int = 13
    """Of samples; 1 makes pictures."""
    cond_frames: int = 5
    """That vc is given, 4n + 1."""
    steps: int = 50
    """Of sampling."""
    guidance: float = 4.0
    """Of sampling."""
    seed: int = 0
    """Of the first sample and of the noise of the loss."""
    draws: int = 1
    """Noise levels that each record is measured at."""
    bins: int = 10
    """Parts of [0, 1] in which the loss is told by its noise level."""
    batch: int = 8
    """Records or prompts at once."""
    max_text_tokens: int = 512
    """Length of the text, the one trained with."""
    loras: tuple[str, ...] = ()
    """LoRA files that are active."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """By default bfloat16, on a CPU float32."""
    mesh: str | None = None
    """Devices that share the work, such as data=8."""
    clips: str | None = None
    """Folder for the samples, to look at."""

    def run(self) -> dict[str, Any]:
        """Measures and writes the JSON file, which is also returned."""
        if self.data is None and not self.toy:
            raise InputError("nothing to measure: give --data DATASET, --toy COUNT, or both")
        for name in ("draws", "bins", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)}: expected at least 1")
        check_writable(self.out, ".json")
        dataset = None if self.data is None else Dataset(self.data)
        opened = Opened.open(self.checkpoint, self.dtype, self.mesh)
        if dataset is not None:
            check_encoders(opened.folder, opened.files, [dataset])
        opened.check_memory()
        pipe = Pipeline.load(opened)
        for path in self.loras:
            pipe.load_lora(path, path)
        found: dict[str, Any] = {"settings": dataclasses.asdict(self)}
        if dataset is not None:
            found["loss"] = {task: values(self._loss(pipe, dataset, task)) for task in self.tasks}
        if self.toy:
            each = [(task, language) for task in self.tasks for language in self.languages]
            found["judge"] = {f"{task} {language}": self._judged(pipe, task, language) for task, language in each}
        with replacing(self.out) as aside:
            aside.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        return found

    def _loss(self, pipe: Pipeline, dataset: Dataset, task: Task) -> Metrics:
        """Averages over all records that can be this task."""
        objective = Pretrain(pipe.dit, 0.0, ConditionNoise(), self.bins)
        trees = Trees(params=pipe.params["dit"], lora=pipe.adapters.trees(self.loras) if self.loras else None)
        total: Metrics = {}
        num_cond = {"t2v": 0, "i2v": 1, "vc": pipe.coder.config.latent_frames(self.cond_frames)}[task]
        for numbers in self._groups(dataset, num_cond):
            batch = self._batch(dataset, numbers, num_cond)
            batch = jax.tree.map(pipe.put, batch)
            for draw in range(self.draws):
                keys = _keys(self.seed, draw, np.array(numbers))
                metrics = _measure(objective, trees, batch, keys)
                total = {name: total[name] + value for name, value in metrics.items()} if total else metrics
        if not total:
            raise InputError(
                f"{dataset.place}: no record is long enough for {task}: expected more than {num_cond} latents"
            )
        return jax.device_get(total)

    def _groups(self, dataset: Dataset, num_cond: int) -> Iterator[list[int]]:
        """Records of one form each."""
        for form in sorted(set(dataset.forms)):
            numbers = [i for i, other in enumerate(dataset.forms) if other == form and form[0] > num_cond]
            yield from (numbers[at : at + self.batch] for at in range(0, len(numbers), self.batch))

    def _batch(self, dataset: Dataset, numbers: Sequence[int], num_cond: int) -> Batch:
        """The records with their first captions."""
        records = [dataset[number] for number in numbers]
        latents = np.stack([record.arrays[LATENTS].astype(np.float32) for record in records])
        rows = [record.arrays[TEXT + next(iter(record.captions))].astype(np.float32) for record in records]
        L = self.max_text_tokens
        states = np.stack([np.pad(row[:L], ((0, max(0, L - len(row))), (0, 0))) for row in rows])
        mask = np.arange(L) < np.array([[len(row)] for row in rows])
        return Batch(latents, TextStates(states, mask), num_cond)

    def _judged(self, pipe: Pipeline, task: Task, language: str) -> dict[str, float]:
        """Mean scores, and the share of samples of which all are right: "all". For i2v "kept" is the share whose
        colours, shapes and number are right."""
        form = Form(parse_size(self.size), self.frames)
        source = ToySource(self.toy, self.seed, (form,), self.objects, "held_out")
        found = []
        for clip, number in self._clips(pipe, source, task, language):
            found.append(score(clip, source.facts(number)))
            if self.clips is not None and self.frames > 1:
                name = f"{task}-{language}-{number:04d}.mp4"
                write_video(pathlib.Path(self.clips) / name, clip, FPS, {"scores": found[-1]})
        means = {name: float(np.mean([one[name] for one in found])) for name in SCORES}
        right = [[one[name] == 1 for name in SCORES] for one in found]
        kept = [row[0] and row[1] and row[3] for row in right]
        return means | {"kept": float(np.mean(kept)), "all": float(np.mean(np.all(right, axis=1))), "clips": len(found)}

    def _clips(self, pipe: Pipeline, source: ToySource, task: Task, language: str) -> Iterator[tuple[np.ndarray, int]]:
        """Samples with the numbers of what they shall show."""
        options = {
            "size": parse_size(self.size),
            "num_frames": self.frames,
            "steps": self.steps,
            "guidance": self.guidance,
            "max_text_tokens": self.max_text_tokens,
            "loras": self.loras,
        }
        step = self.batch if task == "t2v" else 1
        for at in tqdm.tqdm(range(0, len(source), step), desc=f"{task} {language}", disable=None):
            numbers = range(at, min(at + step, len(source)))
            records = [source[number] for number in numbers]
            prompts = [record[f"caption_{language}"] for record in records]
            seeds = [self.seed + number for number in numbers]
            shown = records[0]["video"]
            if task == "t2v":
                clips = pipe.text_to_video(prompts, seed=seeds, **options)
            elif task == "i2v":
                clips = pipe.image_to_video(shown[0], prompts, seed=seeds, **options)
            else:
                given = {"num_cond_frames": self.cond_frames}
                clips = pipe.continue_video(shown[: self.cond_frames], prompts, seed=seeds, **given, **options)
            yield from zip(clips, numbers, strict=True)


def _keys(seed: int, draw: int, numbers: np.ndarray) -> jax.Array:
    """One for each record, whatever batch it is in."""
    key = jax.random.fold_in(jax.random.key(seed), draw)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)


@functools.partial(jax.jit, static_argnums=0)
def _measure(objective: Pretrain, trees: Trees, batch: Batch, keys: jax.Array) -> Metrics:
    return objective(trees, batch, keys)[1]


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        asked = parse(Eval, args, prog="python -m lcv_jax.eval")
        found = asked.run()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted, nothing was written", file=sys.stderr)
        return 130
    print(json.dumps({name: found[name] for name in found if name != "settings"}, indent=1))
    print(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
