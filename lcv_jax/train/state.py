"""What training changes, as one frozen pytree, and where it lies on a mesh."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from lcv_jax.parallel.rules import dividing

Array = jax.Array
Tree = Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["step", "trained", "optimizer", "ema", "key"], meta_fields=[]
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: () int32, steps taken. trained: float32 masters of what is trained, a model's parameters or its LoRAs.
    optimizer: its state. ema: running mean of `trained`, or None. key: () the run's random key, never used itself:
    step i uses it folded with i."""

    step: Array
    trained: Tree
    optimizer: Tree
    ema: Tree | None
    key: Array


def create(trained: Tree, optimizer: optax.GradientTransformation, key: Array, *, ema: bool = False) -> TrainState:
    """The state before the first step. Masters become float32 copies, so that the step may donate its state.

    To be jitted with `state_shardings` as its out_shardings, or to be evaluated with jax.eval_shape.
    """
    trained = jax.tree.map(lambda x: jnp.array(x, jnp.float32), trained)
    mean = jax.tree.map(jnp.copy, trained) if ema else None
    return TrainState(jnp.zeros((), jnp.int32), trained, optimizer.init(trained), mean, jnp.copy(key))


def state_shardings(abstract: TrainState, shardings: Tree, optimizer: optax.GradientTransformation) -> TrainState:
    """A TrainState of shardings: the mean lies where its parameter does, counters and keys everywhere.

    Moments lie where their parameter does, and what of the mesh has the same part of it shares them, by their first
    axis, the layers of scanned blocks: so devices that would repeat an optimizer's work, Muon's products above all,
    divide it (ZeRO). An axis that does not divide is shared by fewer.

    abstract: the state's shapes (jax.eval_shape of `create`). shardings: of the trained tree.
    """
    everywhere = _replicated(jax.tree.leaves(shardings)[0])
    return TrainState(
        step=everywhere,
        trained=shardings,
        optimizer=optax.tree_utils.tree_map_params(
            optimizer,
            lambda leaf, sharding: leaf if _left_out(leaf) else _shared(leaf, sharding),
            abstract.optimizer,
            shardings,
            transform_non_params=lambda _: everywhere,
            is_leaf=_left_out,
        ),
        ema=None if abstract.ema is None else shardings,
        key=everywhere,
    )


def abstract_state(abstract: TrainState, shardings: TrainState) -> TrainState:
    """Shapes with their shardings: what a checkpoint is restored onto."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def _shared(leaf: jax.ShapeDtypeStruct, sharding: Sharding) -> Sharding:
    """The sharding, with the first axis cut by the mesh's axes that cut nothing yet."""
    if not isinstance(sharding, NamedSharding) or not leaf.ndim:
        return sharding
    first, *others = sharding.spec or (None,)
    used = {name for entry in sharding.spec if entry for name in ([entry] if isinstance(entry, str) else entry)}
    spare = [name for name in sharding.mesh.shape if name not in used]
    cut = dividing(spare, leaf.shape[0], sharding.mesh.shape) if first is None else ()
    return NamedSharding(sharding.mesh, PartitionSpec(cut, *others)) if cut else sharding


def _left_out(leaf: Any) -> bool:
    """Whether it stands for a parameter that this part of the optimizer does not move."""
    return isinstance(leaf, optax.MaskedNode)


def _replicated(sharding: Sharding) -> Sharding:
    return NamedSharding(sharding.mesh, PartitionSpec()) if isinstance(sharding, NamedSharding) else sharding
