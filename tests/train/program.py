"""A small training run as a program of its own: what the tests start, stop and start again.

program.py STEPS FOLDER [FOLDER ...]: one run in each folder, continuing what is there. Prints "batch" before every
step, and at a run's end how it ended and a digest of its whole state; the parameters are then in trained.npy.
"""

import argparse
import hashlib
import json
import pathlib
import time

import jax
import numpy as np

import training
from lcv_jax.objectives.pretrain import Pretrain
from lcv_jax.ops.attention import dense_attention
from lcv_jax.parallel import processes
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.loop import Schedule, resume, run
from lcv_jax.train.metrics import MetricsFile
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import abstract_state, create, state_shardings
from lcv_jax.train.step import jitted, make_step


class Run:
    """Everything that runs in one process share: the mesh, the step and its compiled programs."""

    def __init__(self, mesh: str):
        self.place = place = MeshPlacement(MeshConfig.parse(mesh).make(), TRAINING)
        attention = place.attention(dense_attention)
        model = training.dit(attention=attention, cross_attention=attention, placement=place)
        optimizer = AdamW(rate=1e-3, warmup=2).make()
        shapes = jax.eval_shape(lambda: training.init(model))
        trained = place.params(training.TINY, shapes)
        self.create = lambda: create(training.init(model), optimizer, jax.random.key(0), ema=True)
        abstract = jax.eval_shape(self.create)
        self.shardings = state_shardings(abstract, trained, optimizer)
        self.abstract = abstract_state(abstract, self.shardings)
        self.step = jitted(make_step(Pretrain(model), optimizer, shardings=trained), self.shardings)
        self.given = jax.tree.map(place.put, training.given())

    def batches(self, pace: float) -> training.RandomBatches:
        """Every process makes the whole batch and keeps its own rows."""
        rows = 4 // jax.process_count()

        def local(batch):
            print("batch", flush=True)
            time.sleep(pace)
            mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
            return training.put(jax.tree.map(lambda x: x[mine], batch), self.place.sharding(("batch",), (4,)))

        return training.RandomBatches(place=local)

    def __call__(self, folder: str, steps: int, pace: float) -> dict:
        batches = self.batches(pace)
        with Checkpoints(folder) as checkpoints:
            state = resume(checkpoints, self.abstract, batches)
            if state is None:
                state = jax.jit(self.create, out_shardings=self.shardings)()
            metrics = MetricsFile(folder, int(state.step)) if jax.process_index() == 0 else None
            schedule = Schedule(steps, save_every=4, log_every=1)
            state, end = run(self.step, state, self.given, batches, checkpoints, metrics, schedule)
        trained, *others = ([self.place.fetch(x) for x in jax.tree.leaves(part)] for part in _parts(state))
        if jax.process_index() == 0:
            np.save(pathlib.Path(folder) / "trained.npy", np.concatenate([x.ravel() for x in trained]))
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(x).tobytes() for x in sum(others, trained)))
        return {"end": end, "step": int(state.step), "digest": digest.hexdigest()}


def _parts(state):
    return state.trained, state.optimizer, state.ema


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("steps", type=int)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--mesh", default="data=1")
    parser.add_argument("--pace", type=float, default=0.0)
    parser.add_argument("--distributed", nargs=3, metavar=("COORDINATOR", "PROCESSES", "INDEX"))
    args = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)  # as in conftest.py
    coordinator, count, index = args.distributed or (None, None, None)
    numbers = (None, None) if coordinator is None else (int(count), int(index))
    with processes.joined(coordinator, *numbers, sigterm="is noticed"):
        runs = Run(args.mesh)
        for folder in args.folders:
            print(json.dumps(runs(folder, args.steps, args.pace)), flush=True)


if __name__ == "__main__":
    main()
