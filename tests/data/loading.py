"""Reads batches in a process of its own: loading.py DATASET STATE COUNT [KILL]. Goes on from STATE, a JSON file that it
replaces after every batch, and prints a digest of each; ends itself without warning after KILL of them."""

import hashlib
import json
import os
import pathlib
import signal
import sys

import numpy as np

from lcv_jax.data.files import replacing
from lcv_jax.data.loader import Loader, Settings, Tasks
from lcv_jax.data.shards import Dataset

SETTINGS = Settings(tokens=32, text_tokens=6, tasks=Tasks(i2v=1, vc=1, vc_latents=(2,)), posterior="sample", seed=3)


def digest(batch) -> str:
    parts = (batch.latents, batch.states, batch.mask)
    data = b"".join(np.ascontiguousarray(x).tobytes() for x in parts)
    return f"{batch.stream} {batch.task} {hashlib.sha256(data).hexdigest()[:16]}"


def main() -> None:
    place, state, count, *kill = sys.argv[1:]
    loader, state = Loader([Dataset(place)], [1], SETTINGS), pathlib.Path(state)
    if state.exists():
        loader.set_state(json.loads(state.read_text()))
    for number in range(int(count)):
        if kill and number == int(kill[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        line = digest(next(loader))
        with replacing(state) as aside:
            aside.write_text(json.dumps(loader.get_state()))
        print(line, flush=True)


if __name__ == "__main__":
    main()
