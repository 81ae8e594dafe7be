"""A run that is ready but for its weights, whatever it trains."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax

from lcv_jax.data.batching import Stream
from lcv_jax.models.precision import FLOAT32, Precision
from lcv_jax.objectives.objective import Objective, Trees
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.train.config import RunConfig
from lcv_jax.train.feed import Feed
from lcv_jax.train.programs import Kind
from lcv_jax.train.state import TrainState, abstract_state, create, state_shardings
from lcv_jax.train.step import Step, jitted, make_step

Tree = Any


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Training(abc.ABC):
    """placement: the mesh. objective: what is minimised. trained: which of its trees. abstract: the state's shapes and
    shardings. step: jitted. feed: the data. kinds: of batches that will come. streams: what they come from."""

    config: RunConfig
    placement: MeshPlacement
    objective: Objective
    trained: str
    abstract: TrainState
    step: Step
    feed: Feed
    kinds: Sequence[Kind]
    streams: Sequence[Stream]

    @abc.abstractmethod
    def start(self) -> TrainState:
        """The state before the first step, made or read on its shards."""

    def given(self) -> Trees:
        """What the objective reads and is not trained."""
        return Trees()

    def created(self, source: Callable[[Any], Tree], given: Any, **options: Any) -> TrainState:
        """The state whose trained tree `source(given)` is, on its shards."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract)
        begin = jax.jit(lambda x: new_state(self.config, source(x)), out_shardings=shardings, **options)
        return begin(given)


def new_state(config: RunConfig, trained: Tree) -> TrainState:
    return create(trained, config.optimizer.make(), keys(config.seed)[1], ema=config.ema_decay is not None)


def computing(config: RunConfig) -> Precision:
    """Of computation; what is trained is float32."""
    return dataclasses.replace(Precision.named(config.dtype), param=FLOAT32.param)


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """For the first weights, and for the run."""
    return tuple(jax.random.split(jax.random.key(seed)))


def assembled(
    config: RunConfig, objective: Objective, shapes: Tree, shardings: Tree, trained: str = "params"
) -> dict[str, Any]:
    """The fields of a Training that follow from what is trained. shapes, shardings: of that tree."""
    optimizer = config.optimizer.make()
    abstract = jax.eval_shape(lambda tree: new_state(config, tree), shapes)
    where = state_shardings(abstract, shardings, optimizer)
    step = make_step(
        objective,
        optimizer,
        trained=trained,
        accumulate=config.accumulate,
        ema_decay=config.ema_decay or 0.0,
        shardings=shardings,
    )
    return {
        "config": config,
        "objective": objective,
        "trained": trained,
        "abstract": abstract_state(abstract, where),
        "step": jitted(step, where),
    }
