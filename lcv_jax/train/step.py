"""One step of training: gradients over micro-batches, the optimizer, the running mean, a guard against NaN.

There is no mesh in here. Under one, the shardings of state and batch and the Placement value inside the objective's
model say where everything lies.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lcv_jax.errors import InputError
from lcv_jax.objectives.objective import Average, Metrics, Objective, Trees
from lcv_jax.train.state import TrainState

Array = jax.Array
Tree = Any
Step = Callable[[TrainState, Any, Trees], tuple[TrainState, Metrics]]
TRAINED = ("params", "lora")
_NOTHING = Trees()


def make_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    trained: str = "params",
    accumulate: int = 1,
    ema_decay: float = 0.9999,
    shardings: Tree | None = None,
) -> Step:
    """step(state, batch, given) -> (state, metrics), to be jitted (`jitted`).

    trained: the tree that the state holds, "params" or "lora". given: the other trees, outside the optimizer; its ema
    is the state's, as it was before the step.
    accumulate: micro-batches that a batch is cut into, one after the other; the gradient is their mean, so the result
    is that of the whole batch within rounding. ema_decay: of the mean that the state may have; in its first
    9 / (1 - decay) steps it forgets faster, with (1 + n) / (10 + n) at step n. shardings: of the trained tree;
    gradients are kept in them, which makes the sum over the batch's devices a reduce-scatter.

    metrics: the objective's, and "grad_norm" before clipping and "finite", 1 or 0. A step whose loss or gradient is
    not finite changes nothing but the step's number, so that the state before it can still be saved.
    """
    if trained not in TRAINED:
        raise InputError(f"{trained=}: expected one of {', '.join(TRAINED)}")
    if accumulate < 1:
        raise InputError(f"{accumulate=}: expected at least 1 micro-batch")
    if not 0 <= ema_decay < 1:
        raise InputError(f"{ema_decay=}: expected a number from 0 to below 1")

    def loss(tree: Tree, given: Trees, batch: Any, keys: Array):
        return objective(dataclasses.replace(given, **{trained: tree}), batch, keys)

    def placed(grads: Tree) -> Tree:
        return grads if shardings is None else jax.lax.with_sharding_constraint(grads, shardings)

    def step(state: TrainState, batch: Any, given: Trees = _NOTHING) -> tuple[TrainState, Metrics]:
        keys = sample_keys(jax.random.fold_in(state.key, state.step), batch_size(batch))
        given = dataclasses.replace(given, ema=state.ema)
        value, metrics, grads = _gradients(loss, state.trained, given, batch, keys, accumulate, placed)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(norm) & jnp.isfinite(value)
        updates, after = optimizer.update(grads, state.optimizer, state.trained)
        new = optax.apply_updates(state.trained, updates)
        ema = None if state.ema is None else _mean(state.ema, new, state.step, ema_decay)
        kept = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (new, after, ema), (state.trained, state.optimizer, state.ema)
        )
        state = TrainState(state.step + 1, *kept, state.key)
        return state, metrics | {"grad_norm": Average.of(norm), "finite": Average.of(finite)}

    return step


def jitted(step: Step, shardings: TrainState | None = None) -> Step:
    """The step compiled, its state donated. shardings: of the state (state.state_shardings), which the new one keeps;
    then metrics are on every device, so that every process can read them."""
    return jax.jit(step, donate_argnums=0, out_shardings=None if shardings is None else (shardings, shardings.step))


def batch_size(batch: Any) -> int:
    """B, the first axis of every leaf."""
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in jax.tree.leaves(batch)}
    if len(sizes) != 1 or None in sizes:
        raise InputError(
            f"the batch's leaves have first axes {sorted(map(str, sizes))}: expected one number of samples"
        )
    return sizes.pop()


def sample_keys(key: Array, count: int) -> Array:
    """(count,) keys; that of sample i does not depend on count."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(count))


def _gradients(
    loss: Callable, tree: Tree, given: Trees, batch: Any, keys: Array, accumulate: int, placed: Callable[[Tree], Tree]
) -> tuple[Array, Metrics, Tree]:
    """Mean loss, added metrics and mean gradient over the micro-batches."""
    gradient = jax.value_and_grad(loss, has_aux=True)
    if accumulate == 1:
        (value, metrics), grads = gradient(tree, given, batch, keys)
        return value, metrics, placed(grads)

    def body(total: Tree, micro: tuple[Any, Array]):
        (value, metrics), grads = gradient(tree, given, *micro)
        return placed(jax.tree.map(jnp.add, total, grads)), (value, metrics)

    start = placed(jax.tree.map(jnp.zeros_like, tree))
    total, (values, metrics) = jax.lax.scan(body, start, _micro_batches((batch, keys), accumulate))
    grads = jax.tree.map(lambda g: g / accumulate, total)
    return values.mean(), jax.tree.map(lambda m: m.sum(0), metrics), grads


def _micro_batches(tree: Tree, count: int) -> Tree:
    """(B, ...) -> (count, B / count, ...): every count-th sample, so that rows of a sharded batch do not move."""

    def cut(x: Array) -> Array:
        if x.shape[0] % count:
            raise InputError(
                f"a batch of {x.shape[0]} does not divide into {count} micro-batches: choose another number"
            )
        return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(cut, tree)


def _mean(ema: Tree, new: Tree, step: Array, decay: float) -> Tree:
    """decay * mean + (1 - decay) * new, with a smaller decay while the run is young."""
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda m, x: m + (1 - decay) * (x - m), ema, new)
