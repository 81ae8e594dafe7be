"""From the start of a process to the end of its first sampling step: cold, with a cache of programs, compiled ahead.

    python -m benchmarks.warm_start                                 # the small golden checkpoint, minutes
    python -m benchmarks.warm_start --checkpoint DIR --mesh fsdp=8 --size 480 832 --frames 93

Every measurement is a process of its own. Cold has an empty cache; warm has what an equal run left; ahead has only what
`sample.py --compile-only` left. The minimum is a process that imports the library, opens the checkpoint and reads the
weights with programs from the warm cache, and then stops.
"""

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks.common import Result, Row, ratio, seconds, write

PROMPT = "A red panda walks along a branch."


class FirstStep(Exception):
    """The first step is done."""


def child(args):
    """Prints the seconds since --started at the first step's end, or when the weights are read, and how many programs
    were compiled and written."""
    import jax

    from lcv_jax.sample import run, tasks

    written = []

    def listen(event, **_):
        if event == "/jax/compilation_cache/cache_misses":
            written.append(event)

    jax.monitoring.register_event_listener(listen)
    task = tasks.T2V(
        checkpoint=args.checkpoint,
        out=pathlib.Path("unwritten.mp4"),
        prompt=PROMPT,
        height=args.size[0],
        width=args.size[1],
        num_frames=args.frames,
        dtype=args.dtype,
        mesh=args.mesh,
        compile_cache=args.cache,
    )
    pipe = run.load(run.open_checkpoint(task), task)

    def on_step(step):
        raise FirstStep

    if args.child == "run":
        options = {"size": tuple(args.size), "num_frames": args.frames, "negative_prompt": task.negative_prompt}
        with contextlib.suppress(FirstStep):
            pipe.text_to_video(PROMPT, on_step=on_step, **options)
    else:
        jax.block_until_ready(pipe.params)
    print(json.dumps({"seconds": time.time() - args.started, "compiled": len(written)}))


def started(args, kind, cache):
    """What `child` prints, of a process that is started now."""
    command = [sys.executable, "-m", "benchmarks.warm_start", "--child", kind, "--cache", str(cache)]
    command += ["--started", repr(time.time()), *same(args)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        raise RuntimeError(f"{kind} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def same(args):
    """The options that all processes share."""
    given = ["--checkpoint", args.checkpoint, "--size", *map(str, args.size), "--frames", str(args.frames)]
    return given + [x for name in ("mesh", "dtype") if getattr(args, name) for x in (f"--{name}", getattr(args, name))]


def compile_ahead(args, cache):
    height, width = map(str, args.size)
    command = [sys.executable, "sample.py", "t2v", "--checkpoint", args.checkpoint, "--prompt", PROMPT]
    command += ["--height", height, "--width", width, "--num-frames", str(args.frames), "--compile-cache", str(cache)]
    command += [x for name in ("mesh", "dtype") if getattr(args, name) for x in (f"--{name}", getattr(args, name))]
    subprocess.run([*command, "--out", "unwritten.mp4", "--compile-only"], check=True, capture_output=True)


def measure(args, folder):
    """Seconds by kind, one of each a round; programs written to the cache by kind, of the last round."""
    times = {kind: [] for kind in ("cold", "warm", "ahead", "weights")}
    compiled = {}
    for number in range(args.rounds):
        warm, ahead = folder / f"warm{number}", folder / f"ahead{number}"
        compile_ahead(args, ahead)
        for kind, what, cache in (
            ("cold", "run", warm),
            ("weights", "load", warm),
            ("warm", "run", warm),
            ("ahead", "run", ahead),
        ):
            found = started(args, what, cache)
            times[kind].append(found["seconds"])
            compiled[kind] = found["compiled"]
        shutil.rmtree(warm)
        shutil.rmtree(ahead)
    return times, compiled


def main(argv=None, results=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="tests/goldens/checkpoint")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 192), help="height and width in pixels")
    parser.add_argument("--frames", type=int, default=17)
    parser.add_argument("--mesh")
    parser.add_argument("--dtype")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=("run", "load"), help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        times, compiled = measure(args, pathlib.Path(folder))
    least = ratio(times, "weights", "cold")
    rows = tuple(
        Row(
            f"{kind}: start to first step",
            ratio(times, kind, "cold"),
            minimum=least,
            figures=seconds({kind: times[kind]}) | {"programs_compiled": compiled[kind]},
        )
        for kind in ("cold", "warm", "ahead")
    )
    write(
        Result(
            "warm_start",
            "Warm start of sampling",
            over="seconds over those of a cold start in the same round",
            rows=rows,
            minimum="a process that only reads the weights",
            notes=f"{args.frames} frames of {args.size[0]} x {args.size[1]}, mesh {args.mesh or 'of one device'}, "
            f"{args.rounds} rounds. Files in the page cache.",
        ),
        **({} if results is None else {"folder": results}),
    )


if __name__ == "__main__":
    main()
