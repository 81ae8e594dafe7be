"""Whole pipelines on meshes of 8 devices against one device; test_sharded_pipeline.py runs it with so many devices.

Arguments: the checkpoint, then meshes. Prints JSON: by mesh and task the largest difference of latents.
"""

import json
import re
import sys

import jax
import numpy as np

from lcv_jax import Pipeline
from lcv_jax.models.dit import KVCache
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample.denoise import LATENTS, sample_step

rng = np.random.default_rng(0)
VIDEO = rng.integers(0, 255, (9, 48, 80, 3), dtype=np.uint8)
OPTIONS = {"size": (64, 128), "steps": 2, "output": "latents"}


def text_to_video(pipe):
    """Three videos with guidance: more than data=2 divides."""
    return pipe.text_to_video(["a cat", "a dog", "rain"], num_frames=5, seed=[3, 1, 2], **OPTIONS)


def continuation(pipe):
    """With condition cache, a LoRA, and the encoder."""
    options = {"num_cond_frames": 5, "posterior": "mode", "distilled": True, **OPTIONS}
    return pipe.continue_video(VIDEO, "a cat", num_frames=9, **options)


def decoded(pipe):
    return pipe.decode_video(rng_latents())


def refinement(pipe):
    """Block sparse attention, condition frames."""
    options = {"condition": VIDEO[:2], "num_cond_frames": 2, "posterior": "mode", **OPTIONS, "steps": 10}
    return pipe.refine(VIDEO[:5], "a cat", **options | {"size": (128, 128)})


def long_video(pipe):
    made = pipe.long_video("a tram", 2, num_frames=9, num_cond_frames=5, posterior="mode", size=(64, 128), steps=2)
    return np.concatenate([segment.latents for segment in made], axis=1)


def rng_latents():
    return np.random.default_rng(1).normal(size=(1, 2, 7, 10, 16)).astype(np.float32)


QUICK = (text_to_video, continuation, decoded)
TASKS = {"quick": QUICK, "all": (*QUICK, refinement, long_video)}


def moved_between_videos(pipe):
    """What a guided step of four videos with caches of their own sends within a block, where a mesh cuts the batch."""
    on, config = pipe.opened.placement, pipe.dit.config

    def array(shape, axes, dtype=np.float32):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=on.sharding(axes, shape))

    keys = (config.depth, 4, 1, 16, config.num_heads, config.head_dim)
    keys = array(keys, (None, "batch", None, "tokens", "heads", None))
    text = array((8, 6, config.caption_channels), ("batch", None, None))
    text = TextStates(text, array((8, 6), ("batch", None), np.bool_))
    levels = np.float32(0.5), np.float32(0.4)
    latents = array((4, 3, 8, 8, 16), LATENTS)
    step = sample_step.lower(pipe.dit, pipe.variables(), latents, *levels, text, KVCache(keys, keys, 1), np.float32(4))
    program = step.compile().as_text()
    sent = re.findall(r"(all-gather|collective-permute|all-to-all)\(.*op_name=\"([^\"]*)\"", program)
    return [f"{kind} of {name}" for kind, name in sent if "/blocks/" in name]


def main(checkpoint, tasks, *meshes):
    one = Pipeline.from_pretrained(checkpoint, "float32")
    expected = {task: task(one) for task in TASKS[tasks]}
    report = {"moved": moved_between_videos(Pipeline.from_pretrained(checkpoint, "float32", "data=4"))}
    for mesh in meshes:
        pipe = Pipeline.from_pretrained(checkpoint, "float32", mesh)
        for task, value in expected.items():
            report[f"{mesh}, {task.__name__}"] = float(np.abs(task(pipe) - value).max())
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
