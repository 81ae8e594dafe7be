"""What an iteration of GRPO costs, and rollouts over plain sampling: `python -m benchmarks.grpo`.

The toy world's run (configs/toy_grpo.py) on this machine's devices: seconds of rollouts, decoding, rewards and the
update, medians over some iterations. Then the same videos are made by a rollout, one program with a scan over the
steps, and by `denoise`, as sampling makes them, step by step. Without a stochastic step the two must agree.
Rollouts do the same passes of the network and cannot be faster but by what is around them.
"""

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import RESULTS, Result, Row, alternate, ratio, seconds, write
from lcv_jax.objectives.grpo import guided_text
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.prompts import NEGATIVE, prompt
from lcv_jax.sample.denoise import Conditioning, denoise
from lcv_jax.sample.rollout import draw, rollout
from lcv_jax.train.config import read_recipe
from lcv_jax.train.grpo import GRPOTraining
from lcv_jax.train.prompts import Prompts
from lcv_jax.train.rounds import Rounds
from lcv_jax.train.state import TrainState

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("rollout", "decoding", "rewards", "update")


def iterations(training: GRPOTraining, given: Trees, count: int) -> tuple[TrainState, Row]:
    """The state after them, and what they cost; the first is not counted."""
    rounds, state = Rounds(training, given, None, lambda *_: None), training.start()
    told = []
    for _ in range(1 + count):
        state, metrics = rounds(state, next(training.feed), given)
        told.append({part: float(metrics[f"seconds {part}"].value) for part in PARTS})
    costs = {part: statistics.median(one[part] for one in told[1:]) for part in PARTS}
    # A guided video is two passes of the network for each step, and in an update two of the policy, forward and
    # backward, and two of the reference: eight passes' worth.
    passes = 2 * training.config.rollout.steps
    least = 8 * training.config.updates / passes
    figures = {f"{part}_s": round(costs[part], 4) for part in PARTS}
    return state, Row("update / rollout", round(costs["update"] / costs["rollout"], 3), round(least, 3), None, figures)


def throughput(training: GRPOTraining, given: Trees, state: TrainState, prompts: Prompts, rounds: int) -> Row:
    """Seconds of a rollout over those of plain sampling of the same videos."""
    config, objective, form = training.config, training.objective, training.forms[0]
    model, how = objective.model, objective.settings.exploration
    trees = dataclasses.replace(given, lora=state.trained)
    drawn = jax.jit(draw, static_argnums=(1, 2, 3, 4))(
        state.key, config.rollout.prompts, config.rollout.group, form.latents, how.steps
    )
    text = jax.tree.map(lambda x: jnp.repeat(x, config.rollout.group, axis=0), prompts.text)
    negative = jax.tree.map(lambda x: jnp.repeat(x, len(text.mask), axis=0), prompt(trees, NEGATIVE, text))
    guided, guidance = guided_text(trees, text), jnp.float32(objective.guidance)
    conditioning = Conditioning(drawn.noise, text, form.sigmas, negative=negative, guidance=objective.guidance)
    roll = jax.jit(rollout, static_argnums=(0, 6))

    def rolled(drawn):
        return roll(model, trees.variables, drawn, guided, jnp.asarray(form.sigmas), guidance, how)[0]

    def plain():
        return denoise(model, trees.variables, conditioning)

    still = dataclasses.replace(drawn, critical=jnp.full_like(drawn.critical, -1))
    np.testing.assert_allclose(rolled(still), plain(), atol=1e-3)
    times = alternate({"rollout": lambda: rolled(drawn), "plain": plain}, rounds=rounds)
    case = f"rollout / plain sampling, {form.name}"
    return Row(case, ratio(times, "rollout", "plain"), 1.0, round(1 / 0.9, 3), seconds(times))


def main(args: Sequence[str] | None = None, results: pathlib.Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5, help="that are counted, of iterations and of comparisons")
    parser.add_argument("--mesh", default="data=1")
    asked = parser.parse_args(args)
    config, _ = read_recipe(ROOT / "configs/toy_grpo.py")
    sizes = {"prompts": asked.prompts, "group": asked.group, "steps": asked.steps}
    config = dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, **sizes), mesh=asked.mesh)
    training = GRPOTraining.of(config)
    given = training.given()
    state, cost = iterations(training, given, asked.rounds)
    speed = throughput(training, given, state, next(training.feed), asked.rounds)
    write(
        Result(
            "grpo",
            "An iteration of GRPO",
            over="seconds of the first / seconds of the second",
            rows=(speed, cost),
            minimum="passes of the network, a backward pass counted as two",
            notes=f"The toy world's model, {training.forms[0].name}, {asked.steps} steps, mesh {asked.mesh}. "
            "The goal is a throughput of rollouts of at least 0.9 of plain sampling's.",
        ),
        results,
    )


if __name__ == "__main__":
    main()
