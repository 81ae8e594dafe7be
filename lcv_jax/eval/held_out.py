"""The loss on a dataset that was not trained on, by noise level.

Noise is pinned: that of record i and draw k is the same for every checkpoint, whatever the batches.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from lcv_jax.data.shards import LATENTS, TEXT, Dataset
from lcv_jax.errors import InputError
from lcv_jax.eval.sampling import Judged
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Metrics, Trees
from lcv_jax.objectives.pretrain import Batch, Pretrain, Pretraining
from lcv_jax.sample.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """How the loss is measured. draws: noise levels of each record. bins: parts of [0, 1] by noise level. batch:
    records at once. text_tokens: length of the text. cond_frames: of vc, 4n + 1. loras: names of active adapters."""

    draws: int
    bins: int
    batch: int
    text_tokens: int
    cond_frames: int
    seed: int = 0
    loras: tuple[str, ...] = ()

    def loss(self, pipe: Pipeline, dataset: Dataset, task: Judged) -> Metrics:
        """Averages over all records that can be this task; raises InputError if there are none."""
        objective = Pretrain(pipe.dit, Pretraining(text_dropout=0, bins=self.bins))
        trees = Trees(params=pipe.params["dit"], lora=pipe.adapters.trees(self.loras) if self.loras else None)
        total: Metrics = {}
        num_cond = {"t2v": 0, "i2v": 1, "vc": pipe.coder.config.latent_frames(self.cond_frames)}[task]
        for numbers in self._groups(dataset, num_cond):
            batch = self._batch(dataset, numbers, num_cond)
            batch = jax.tree.map(pipe.put, batch)
            for draw in range(self.draws):
                keys = noise_keys(self.seed, draw, np.array(numbers))
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
        L = self.text_tokens
        states = np.stack([np.pad(row[:L], ((0, max(0, L - len(row))), (0, 0))) for row in rows])
        mask = np.arange(L) < np.array([[len(row)] for row in rows])
        return Batch(latents, TextStates(states, mask), num_cond)


def noise_keys(seed: int, draw: int, numbers: np.ndarray) -> jax.Array:
    """One for each record, whatever batch it is in."""
    key = jax.random.fold_in(jax.random.key(seed), draw)
    return jax.vmap(functools.partial(jax.random.fold_in, key))(numbers)


@functools.partial(jax.jit, static_argnums=0)
def _measure(objective: Pretrain, trees: Trees, batch: Batch, keys: jax.Array) -> Metrics:
    return objective(trees, batch, keys)[1]
