"""Seconds per clip: distilled sampling over sampling with guidance, the same prompts and seeds in alternating rounds.

With guidance each of 50 steps asks the network for two rows of every clip, distilled each of 16 for one, so the least
that is to be expected is 16 / 100; text, decoder and the LoRA's own products come on top. How good the clips are,
`python -m lcv_jax.eval` says with and without --distilled.

    python -m benchmarks.distilled                                          # the small golden checkpoint, minutes
    python -m benchmarks.distilled --checkpoint outputs/toy/checkpoint --size 64 64 --frames 13 --tokens 48
"""

import functools
import pathlib

import tyro

from benchmarks.common import RESULTS, Result, Row, alternate, ratio, seconds, write
from lcv_jax.sample.options import Options
from lcv_jax.sample.pipeline import Pipeline

PROMPT = "A red circle moves to the right on a plain grey background."
NAMES = ("distilled", "guided")


def calls(options: Options) -> int:
    """Rows of the network that one clip takes."""
    return options.run_steps * (2 if options.run_guidance > 1 else 1)


def measure(pipe: Pipeline, output: str, common: dict, clips: int, rounds: int) -> Row:
    """output: "latents" is the sampling alone, "frames" the whole of a clip."""
    asked = {name: common | {"distilled": name == NAMES[0], "output": output} for name in NAMES}
    run = {name: functools.partial(pipe.text_to_video, [PROMPT] * clips, **options) for name, options in asked.items()}
    times = alternate(run, rounds=rounds)
    each = {name: [value / clips for value in values] for name, values in times.items()}
    rows = {name: calls(Options(**options)) for name, options in asked.items()}
    least = rows[NAMES[0]] / rows[NAMES[1]]
    figures = {f"{name}_calls": count for name, count in rows.items()} | seconds(each)
    case = "text and latents" if output == "latents" else "whole clips"
    return Row(case, ratio(times, *NAMES), minimum=least, goal=1.25 * least, figures=figures)


def main(
    checkpoint: str = "tests/goldens/checkpoint",
    size: tuple[int, int] = (64, 64),
    frames: int = 13,
    tokens: int = 48,
    clips: int = 2,
    rounds: int = 5,
    steps: int | None = None,
    dtype: str | None = None,
    mesh: str | None = None,
    out: pathlib.Path = RESULTS,
) -> None:
    """checkpoint: with a cfg_step LoRA. size: height and width. tokens: of text. clips: at once. steps: of both, to try
    the script out; by default 16 and 50."""
    pipe = Pipeline.from_pretrained(checkpoint, dtype=dtype, mesh=mesh)
    common = {"size": size, "num_frames": frames, "max_text_tokens": tokens, "steps": steps}
    rows = tuple(measure(pipe, output, common, clips, rounds) for output in ("latents", "frames"))
    write(
        Result(
            "distilled",
            "Distilled sampling against guided sampling",
            over="seconds per clip, distilled / guided",
            rows=rows,
            minimum="rows that the network is asked for, distilled / guided",
            notes=f"{clips} clips of {frames} frames of {size[0]} x {size[1]} at once, {tokens} text tokens, mesh "
            f"{mesh or 'of one device'}, {rounds} rounds.",
        ),
        out,
    )


if __name__ == "__main__":
    tyro.cli(main)
