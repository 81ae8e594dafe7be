"""What the tests of training share: a tiny DiT, batches of random latents that a seed and a number give, and what a run
has left."""

import contextlib
import dataclasses
import json
import pathlib

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import devices
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.precision import FLOAT32, Precision
from lcv_jax.models.umt5 import TextStates
from lcv_jax.models.zoo import abstract_params, init_params
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.pretrain import Batch
from lcv_jax.train import command
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.weights import read_trained

TINY = DiTConfig(
    hidden_size=32,
    depth=2,
    num_heads=2,
    mlp_ratio=1,
    caption_channels=8,
    adaln_tembed_dim=16,
    frequency_embedding_size=16,
    bsa_params=None,
)


def dit(config: DiTConfig = TINY, precision: Precision = FLOAT32, **fields) -> DiT:
    return DiT(config, precision, **fields)


def init(model: DiT, seed: int = 0):
    """Parameters of an untrained model."""
    return jax.jit(lambda key: init_params(model.config, model.precision, key))(jax.random.key(seed))


def awake(params, seed: int = 0, scale: float = 0.1):
    """The parameters with noise on all of them: an untrained model's zeros hide what they multiply."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32), params)


def empty_prompt(config: DiTConfig = TINY, tokens: int = 1) -> TextStates:
    rng = np.random.default_rng(99)
    return TextStates(
        rng.normal(size=(1, tokens, config.caption_channels)).astype(np.float32), np.ones((1, tokens), bool)
    )


def given(**trees) -> Trees:
    return Trees(prompts={"empty": empty_prompt()}, **trees)


def batch(seed=0, size=4, frames=3, num_cond=0, config: DiTConfig = TINY, side=4) -> Batch:
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(size, frames, side, side, config.in_channels)).astype(np.float32)
    states = rng.normal(size=(size, 3, config.caption_channels)).astype(np.float32)
    mask = np.arange(3) < rng.integers(1, 4, (size, 1))
    return Batch(latents, TextStates(states, mask), num_cond)


@dataclasses.dataclass
class RandomBatches:
    """An endless source: batch n of a seed is always the same. place: what is done to it last."""

    size: int = 4
    at: int = 0
    place: object = None

    def __next__(self) -> Batch:
        one = batch(self.at, self.size, frames=2)
        self.at += 1
        return one if self.place is None else self.place(one)

    def get_state(self):
        return {"at": self.at}

    def set_state(self, state):
        self.at = state["at"]


RECIPE = devices.ROOT / "tests/train/recipe.py"
CHANGES = ("seconds", "tokens_per_second", "tflops")
"""Of a line of metrics, from run to run."""


def lines(run: pathlib.Path) -> list[dict]:
    """The metrics of a run without those."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in record.items() if name not in CHANGES} for record in records]


def trained(config, run: pathlib.Path, step: int, weights: str | None = None) -> list:
    """Parameters that a run has saved."""
    abstract = abstract_params(config.model, FLOAT32)
    return jax.tree.leaves(read_trained(run / f"checkpoints/{step}", abstract, weights))


def whole(config, run: pathlib.Path, step: int) -> tuple[dict[str, np.ndarray], dict]:
    """All that a run has saved at a step: every leaf of the state by name, moments, counters and key too, and where its
    data stood."""
    with Checkpoints(run) as checkpoints:
        restored = checkpoints.restore(command.training_of(config).abstract, step)
    state = dataclasses.replace(restored.state, key=jax.random.key_data(restored.state.key))
    named = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named}, dict(restored.data)


def same(one: tuple[dict[str, np.ndarray], dict], other: tuple[dict[str, np.ndarray], dict]) -> None:
    """Fails unless both of `whole` are equal to the last bit."""
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, leaf in one[0].items():
        np.testing.assert_array_equal(leaf, other[0][name], name)


@contextlib.contextmanager
def programs_kept(folder: pathlib.Path):
    """What is compiled inside is compiled once, by runs of one config."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(folder), 0.0), strict=True):
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def put(batch, sharding):
    """A batch of host arrays that holds this process's samples -> global arrays. sharding: of the first axis."""
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)
