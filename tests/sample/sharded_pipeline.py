"""Whole pipelines on meshes of 8 devices against one device; test_sharded_pipeline.py runs it with so many devices.

Arguments: the checkpoint, then meshes. Prints JSON: by mesh and task the largest difference of latents.
"""

import json
import sys

import numpy as np

from lcv_jax import Pipeline

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


def main(checkpoint, tasks, *meshes):
    one = Pipeline.from_pretrained(checkpoint, "float32")
    expected = {task: task(one) for task in TASKS[tasks]}
    report = {}
    for mesh in meshes:
        pipe = Pipeline.from_pretrained(checkpoint, "float32", mesh)
        for task, value in expected.items():
            report[f"{mesh}, {task.__name__}"] = float(np.abs(task(pipe) - value).max())
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
