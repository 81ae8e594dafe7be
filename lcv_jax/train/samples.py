"""Videos of a run's own weights, made while it trains."""

import dataclasses
import logging
import pathlib

import jax
import numpy as np

from lcv_jax.data.images import write_png
from lcv_jax.data.video_writer import write_video
from lcv_jax.models.dit import DiT
from lcv_jax.objectives.objective import Trees
from lcv_jax.ops.attention import dense_attention
from lcv_jax.parallel import processes
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING
from lcv_jax.sample.encoders import Encoders
from lcv_jax.sample.options import DISTILLED_LORA, FPS
from lcv_jax.sample.pipeline import Pipeline
from lcv_jax.train.build import ADAPTER, DiTTraining, precision_of
from lcv_jax.train.config import SampleConfig, TrainConfig

logger = logging.getLogger(__name__)

FOLDER = "samples"


def pipeline_of(training: DiTTraining, trees: Trees) -> Pipeline:
    """A pipeline around the trees, on the run's mesh, with the encoders of config.checkpoint. Their weights are read
    now: between samples they take no memory."""
    config = training.config
    placement = MeshPlacement(training.placement.mesh, SAMPLING)
    precision = precision_of(config)
    encoders = Encoders.open(config.checkpoint, placement, config.dtype).load()
    dense = placement.attention(dense_attention)
    dit = DiT(config.model, precision, dense, dense, placement)
    params = jax.tree.map(lambda x: x.astype(precision.param), trees.params)
    pipe = encoders.pipeline(dit, params)
    if trees.lora is not None:
        pipe.adapters.put(trees.lora[ADAPTER], _name(config.samples))
    return pipe


def _name(asked: SampleConfig) -> str:
    """Of the LoRA that is trained."""
    return DISTILLED_LORA if asked.distilled else ADAPTER


def due(config: TrainConfig, at: int) -> bool:
    return bool(config.samples.every) and at % config.samples.every == 0


def sample(pipe: Pipeline, asked: SampleConfig, config: TrainConfig) -> list[np.ndarray]:
    """A clip (F, H, W, 3) uint8 of each prompt, one after the other; prompt i has seed + i."""
    options = {
        "size": (asked.height, asked.width),
        "num_frames": asked.frames,
        "steps": asked.steps,
        "guidance": asked.guidance,
        "max_text_tokens": config.data.batches.text_tokens,
        "distilled": asked.distilled,
        "loras": () if config.lora is None else (_name(asked),),
    }
    return [pipe.text_to_video(prompt, seed=asked.seed + i, **options)[0] for i, prompt in enumerate(asked.prompts)]


def write(run: pathlib.Path, at: int, training: DiTTraining, trees: Trees) -> None:
    """Samples into RUN/samples/STEP/, numbered like the prompts."""
    config = training.config
    clips = sample(pipeline_of(training, trees), config.samples, config)
    if not processes.is_main():
        return
    for number, (clip, prompt) in enumerate(zip(clips, config.samples.prompts, strict=True)):
        told = {"step": at, "prompt": prompt} | dataclasses.asdict(config.samples)
        name = run / FOLDER / f"{at:07d}" / f"{number:02d}"
        if len(clip) == 1:
            write_png(name.with_suffix(".png"), clip[0], told)
        else:
            write_video(name.with_suffix(".mp4"), clip, FPS, told)
    logger.info("step %d: %d samples in %s", at, len(clips), run / FOLDER / f"{at:07d}")
