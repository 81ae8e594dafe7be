"""Training on eight devices against one, as a program that prints what came out, by name, as JSON.

A step gives the same numbers on every mesh; nothing leaves its place from step to step; a checkpoint of one mesh goes
on on another.
"""

import json
import tempfile

import jax
import numpy as np

import training
from lcv_jax.objectives.pretrain import ConditionNoise, Pretrain, Pretraining
from lcv_jax.ops.attention import dense_attention
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import abstract_state, create, state_shardings
from lcv_jax.train.step import jitted, make_step

# A large epsilon, because Adam turns the rounding of gradients near 0 into whole steps.
OPTIMIZER = AdamW(rate=1e-2, warmup=2, epsilon=1e-2).make()


class On:
    """One mesh: its step and where its state lies."""

    def __init__(self, mesh: str, accumulate: int = 1):
        self.place = place = MeshPlacement(MeshConfig.parse(mesh).make(), TRAINING)
        attention = place.attention(dense_attention)
        model = training.dit(attention=attention, cross_attention=attention, placement=place)
        plain = training.dit()
        trained = place.params(training.TINY, jax.eval_shape(lambda: training.init(plain)))
        self.abstract = jax.eval_shape(self.create)
        self.shardings = state_shardings(self.abstract, trained, OPTIMIZER)
        objective = Pretrain(model, Pretraining(condition_noise=ConditionNoise(0.5)))
        step = make_step(objective, OPTIMIZER, accumulate=accumulate, shardings=trained)
        self.step = jitted(step, self.shardings)

    @staticmethod
    def create():
        return create(training.awake(training.init(training.dit())), OPTIMIZER, jax.random.key(0), ema=True)

    def start(self):
        return jax.jit(self.create, out_shardings=self.shardings)()

    def advance(self, state, numbers):
        given = jax.tree.map(self.place.put, training.given())
        for number in numbers:
            batch = training.batch(number, size=8, num_cond=2)
            state, metrics = self.step(state, training.put(batch, self.place.sharding(("batch",), (8,))), given)
        return state, metrics


def difference(state, other) -> float:
    """The largest of any number of the trained tree, the moments and the mean."""
    parts = ((s.trained, s.optimizer, s.ema) for s in (state, other))
    return max(float(np.abs(a - b).max()) for a, b in _pairs(*parts))


def _pairs(tree, other):
    return zip(*(map(np.asarray, jax.tree.leaves(x)) for x in (tree, other)), strict=True)


def share(state) -> float:
    """Of the state's bytes, those on the first device."""
    leaves = jax.tree.leaves((state.trained, state.optimizer, state.ema))
    here = sum(shard.data.nbytes for x in leaves for shard in x.addressable_shards if shard.device.id == 0)
    return here / sum(x.nbytes for x in leaves)


def stays(before, after) -> bool:
    """Whether every array lies as it lay."""
    same = jax.tree.map(lambda a, b: a.is_equivalent_to(b.sharding, b.ndim), before, after)
    return all(jax.tree.leaves(same))


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # as in conftest.py
    one = On("data=1")
    after, metrics = one.advance(one.start(), range(2))
    meshes = {"data=2,fsdp=4": On("data=2,fsdp=4"), "fsdp=2,context=2,tensor=2": On("fsdp=2,context=2,tensor=2", 2)}
    before = one.start()
    out = {"moved": max(float(np.abs(a - b).max()) for a, b in _pairs(after.trained, before.trained))}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder) as checkpoints:
        for name, on in meshes.items():
            state, _ = on.advance(on.start(), range(1))
            if name.startswith("data"):
                checkpoints.save(1, state, {})
            state, measured = on.advance(state, range(1, 2))
            out[name] = {
                "difference": difference(state, after),
                "loss": abs(float(measured["loss"].value) - float(metrics["loss"].value)),
                "share": share(state),
                "stays": stays(on.shardings, state),
            }
        for name, on in {"one": one, **meshes}.items():
            restored = checkpoints.restore(abstract_state(on.abstract, on.shardings)).state
            lies = stays(on.shardings, restored)
            out[f"restored on {name}"] = {"stays": lies, "difference": difference(on.advance(restored, [1])[0], after)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
