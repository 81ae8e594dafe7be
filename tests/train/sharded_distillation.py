"""Both distillations on eight devices against one, as a program that prints what came out, by name, as JSON."""

import json

import jax
import numpy as np

import training
from lcv_jax.models.lora import LoRAConfig, init_lora
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.zoo import abstract_params
from lcv_jax.objectives.cfg_distill import CFGDistillation
from lcv_jax.objectives.consistency import Consistency
from lcv_jax.objectives.objective import Trees
from lcv_jax.ops.attention import dense_attention
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import TRAINING
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import create, state_shardings
from lcv_jax.train.step import jitted, make_step

# A large epsilon, because Adam turns the rounding of gradients near 0 into whole steps.
OPTIMIZER = AdamW(rate=1e-2, warmup=0, epsilon=1e-2).make()
OBJECTIVES = {"guidance": CFGDistillation(negative_prompt=""), "consistency": Consistency(phases=4)}
STEPS = 2


def adapters(seed: int):
    """Of which nothing is zero."""
    new = init_lora(LoRAConfig(rank=2, alpha=2.0), abstract_params(training.TINY, FLOAT32), jax.random.key(seed))
    return {"trained": training.awake(new, seed)}


def stepped(mesh: str, settings, accumulate: int) -> tuple[list[np.ndarray], float]:
    """Adapters and their mean after some steps, and the last loss."""
    place = MeshPlacement(MeshConfig.parse(mesh).make(), TRAINING)
    attention = place.attention(dense_attention)
    model = training.dit(attention=attention, cross_attention=attention, placement=place)
    shapes = abstract_params(training.TINY, FLOAT32)
    where = {"trained": place.lora(training.TINY, shapes, adapters(1)["trained"])}
    start = lambda: create(adapters(1), OPTIMIZER, jax.random.key(0), ema=True)  # noqa: E731
    shardings = state_shardings(jax.eval_shape(start), where, OPTIMIZER)
    step = make_step(
        settings.of(model), OPTIMIZER, trained="lora", accumulate=accumulate, ema_decay=0.5, shardings=where
    )
    step, state = jitted(step, shardings), jax.jit(start, out_shardings=shardings)()
    given = Trees(
        params=jax.device_put(training.awake(training.init(training.dit())), place.params(training.TINY, shapes)),
        reference=jax.device_put(adapters(2), where),
        prompts={"negative": jax.tree.map(place.put, training.empty_prompt())},
    )
    for number in range(STEPS):
        batch = training.batch(number, size=8, num_cond=1)
        state, metrics = step(state, training.put(batch, place.sharding(("batch",), (8,))), given)
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.trained, state.ema))], float(metrics["loss"].value)


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # as in conftest.py
    before, out = [np.asarray(leaf) for leaf in jax.tree.leaves(adapters(1))], {}
    for name, settings in OBJECTIVES.items():
        one, loss = stepped("data=1", settings, 1)
        moved = max(float(np.abs(a - b).max()) for a, b in zip(one, before, strict=False))
        for mesh, accumulate in (("data=2,fsdp=4", 1), ("fsdp=2,context=2,tensor=2", 2)):
            many, other = stepped(mesh, settings, accumulate)
            difference = max(float(np.abs(a - b).max()) for a, b in zip(one, many, strict=True))
            out[f"{name} {mesh}"] = {"moved": moved, "difference": difference, "loss": abs(loss - other)}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
