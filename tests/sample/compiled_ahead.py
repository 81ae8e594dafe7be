"""Compiles commands ahead and then runs them on 4 devices; test_ahead.py starts it with so many.

Arguments: the checkpoint, a folder, then commands of sample.py without the options that all have. Prints JSON: how many
of each program were put into the cache ahead and by the run; which bytes programs share with what they are donated;
and how far quantised weights and a velocity on the mesh are from those of one device.
"""

import collections
import contextlib
import json
import math
import pathlib
import shlex
import sys
from fractions import Fraction

import jax
import numpy as np

from lcv_jax.checkpoint.load import flatten
from lcv_jax.data.video_writer import write_video
from lcv_jax.models.umt5 import TextStates
from lcv_jax.sample import ahead, cli, request
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options
from lcv_jax.sample.pipeline import Pipeline

MESH = "fsdp=2,tensor=2"
SIZE = (64, 128)
FRAMES = np.random.default_rng(0).integers(0, 255, (9, 48, 80, 3), dtype=np.uint8)


def entries(cache):
    """How many programs of each name the cache on disk holds."""
    names = (path.name for path in cache.glob("jit_*-cache"))
    return collections.Counter(name.split("-")[0].removeprefix("jit_") for name in names)


def commands(checkpoint, folder, lines):
    cache, video = folder / "xla", folder / "in.mp4"
    write_video(video, FRAMES, Fraction(15), {})
    common = ["--checkpoint", checkpoint, "--mesh", MESH, "--compile-cache", str(cache), "--out", f"{folder}/out.mp4"]
    common += ["--height", str(SIZE[0]), "--width", str(SIZE[1]), "--num-frames", "9", "--steps", "2"]
    report = {}
    for line in lines:
        command = [*shlex.split(line.replace("VIDEO", str(video))), *common]
        before = entries(cache)
        cli.main([*command, "--compile-only"])
        compiled = entries(cache)
        jax.clear_caches()  # what is compiled is on disk only
        cli.main(command)
        report[line] = {"ahead": compiled - before, "run": entries(cache) - compiled}
    return report


class Watched(ahead.Ahead):
    """Keeps, of every program that is donated something: its name, the bytes donated, and those that it uses again."""

    def program(self, function, *arguments, **static):
        compiled = function.lower(*arguments, **static).compile()

        def donated(info, where):
            return math.prod(where.shard_shape(info.shape)) * info.dtype.itemsize if info.donated else 0

        sizes = jax.tree.leaves(jax.tree.map(donated, compiled.args_info, compiled.input_shardings))
        if any(sizes):
            shared.append((function.__name__, sum(sizes), compiled.memory_analysis().alias_size_in_bytes))
        return super().program(function, *arguments, **static)


shared: list[tuple[str, int, int]] = []


def donations(checkpoint):
    """Bytes on one device."""
    parts = ahead.weightless(Opened.open(checkpoint, "float32", MESH))
    options = Options(size=SIZE, steps=2, num_frames=9)
    how = {"num_cond_frames": 5, "kv_cache": False, "enhance_hf": None}
    Watched(parts, print).sampling(request.continuation(FRAMES, "a cat", options, **how))
    return shared


def quantised(checkpoint):
    """Largest differences between the mesh and one device: of the weights, of a velocity; and how large that is."""
    one, mesh = (Pipeline.from_pretrained(checkpoint, "float32", where, weights="int8") for where in (None, MESH))
    here, there = (flatten(p.params["dit"]) for p in (one, mesh))
    text = TextStates(np.random.default_rng(1).normal(size=(1, 4, one.text_encoder.config.d_model)), None)
    latents = np.random.default_rng(2).normal(size=(1, 2, 8, 8, 16)).astype(np.float32)
    v, w = (np.asarray(p.velocity(latents, np.full((1, 2), 0.5), text)) for p in (one, mesh))
    bits = [np.abs(np.asarray(here[k], np.float32) - np.asarray(there[k], np.float32)).max() for k in here]
    cut = sum(not leaf.is_fully_replicated for k, leaf in there.items() if leaf.dtype == np.int8)
    return {"weights": float(max(bits)), "velocity": float(np.abs(v - w).max()), "scale": float(v.std()), "cut": cut}


def main(checkpoint, folder, *lines):
    with contextlib.redirect_stdout(sys.stderr):
        report = {"runs": commands(checkpoint, pathlib.Path(folder), lines)}
        report |= {"donations": donations(checkpoint), "quantised": quantised(checkpoint)}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
