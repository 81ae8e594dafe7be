"""Iterations of GRPO on eight devices against one, as a program that prints what came out, by mesh, as JSON."""

import dataclasses
import json

import jax
import numpy as np

import rewarded

MESHES = ("data=1", "data=2,fsdp=4", "fsdp=2,context=2,tensor=2")


def iterations(mesh: str, **changes):
    """Two of them with 4 prompts of 2 videos: scores, state, metrics, and whether the state stayed where it lay."""
    base = rewarded.config()
    rollout = dataclasses.replace(base.rollout, prompts=4)
    reward = rewarded.Contrast()
    training, given, rounds = rewarded.rounds(rewarded.config(mesh=mesh, rollout=rollout, **changes), reward)
    state = training.start()
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(state.trained)]
    for _ in range(2):
        state, metrics = rounds(state, next(training.feed), given)
    lies = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, b.ndim), training.abstract, state)
    after = [np.asarray(leaf) for leaf in jax.tree.leaves(state.trained)]
    scores = np.stack([scores for _, scores in reward.told])
    return scores, furthest(before, after), leaves(state), metrics, all(jax.tree.leaves(lies))


def leaves(state) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves((state.trained, state.optimizer))]


def furthest(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def main() -> None:
    jax.config.update("jax_disable_most_optimizations", True)  # as in conftest.py
    one = MESHES[0]
    scores, moved, after, metrics, _ = iterations(one)
    report = {"moved": moved}
    for mesh in MESHES[1:]:
        # Micro-batches on the second, which has room for them.
        changes = {"accumulate": 2} if "context" in mesh else {}
        found, _, state, told, stays = iterations(mesh, **changes)
        norms = (float(each["grad_norm"].value) for each in (metrics, told))
        report[mesh] = {
            "scores": float(np.abs(found - scores).max()),
            "difference": furthest(after, state),
            "grad_norm": abs(np.subtract(*norms)) / float(metrics["grad_norm"].value),
            "stays": stays,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
