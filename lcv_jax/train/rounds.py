"""An iteration of GRPO as a step of a run: rollouts, what rewards say of them, updates.

The first and the last are compiled programs on the mesh. In between every process decodes its own videos and asks the
rewards about them; all processes then know all scores.
"""

import collections
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding

from lcv_jax.data.images import write_png
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.grpo import GroupPolicy, Judged, advantages, complete, guided_text
from lcv_jax.objectives.objective import Average, Metrics, Trees
from lcv_jax.ops.placement import Placement
from lcv_jax.parallel import processes
from lcv_jax.parallel.hlo import count_flops
from lcv_jax.rewards.gathering import gather
from lcv_jax.sample.rollout import Draw, Exploration, Transition, draw, rollout
from lcv_jax.train.grpo import Form, GRPOTraining
from lcv_jax.train.programs import Kind, Work
from lcv_jax.train.prompts import Prompts
from lcv_jax.train.samples import FOLDER
from lcv_jax.train.state import TrainState

logger = logging.getLogger(__name__)

Array = jax.Array
_ROLLOUT = 0x726F6C6C  # what the step's key is folded with for rollouts: no number of a sample


def make_roll(objective: GroupPolicy, form: Form, group: int, parts: int) -> Callable[..., tuple[Array, Array, Judged]]:
    """roll(trained, key, at, given, prompts) -> final latents (B, T, h, w, C), which of them are finite (B,), and what
    updates read, not judged yet.

    key: the run's. at: number of the iteration. Videos of a group stand together. parts: that the videos are made in,
    one behind the other, which bounds the memory and changes no number but by rounding.
    """
    how: Exploration = objective.settings.exploration
    place = objective.model.placement

    def cut(tree: Any) -> Any:
        """(B, ...) -> (parts, B / parts, ...): every parts-th row, so that rows of a sharded batch do not move."""
        return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), tree)

    def joined(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)

    def roll(trained: Any, key: Array, at: Array, given: Trees, prompts: Prompts) -> tuple[Array, Array, Judged]:
        key = jax.random.fold_in(jax.random.fold_in(key, at), _ROLLOUT)
        drawn = draw(key, len(prompts.numbers), group, form.latents, how.steps)
        text = _placed(place, jax.tree.map(lambda x: jnp.repeat(x, group, axis=0), prompts.text))
        trees = dataclasses.replace(given, lora=trained)

        def part(some: tuple[Draw, TextStates]) -> tuple[Array, Transition]:
            drawn, read = some[0], _placed(place, some[1])
            guidance = None
            if objective.guidance != 1:
                read, guidance = _placed(place, guided_text(trees, read)), jnp.float32(objective.guidance)
            return rollout(objective.model, trees.variables, drawn, read, form.sigmas, guidance, how)

        latents, kept = part((drawn, text)) if parts == 1 else joined(jax.lax.map(part, cut((drawn, text))))
        nothing = jnp.zeros(len(latents), jnp.float32)
        finite = jnp.isfinite(latents).all(axis=(1, 2, 3, 4))
        return latents, finite, Judged(kept, nothing, nothing, text)

    return roll


def _placed(place: Placement, text: TextStates) -> TextStates:
    return jax.tree.map(lambda x: place(x, ("batch", *(None,) * (x.ndim - 1))), text)


@dataclasses.dataclass(frozen=True)
class _Program:
    """Compiled for one form. metrics: shapes of what an update tells."""

    roll: Any
    update: Any
    metrics: Metrics
    work: Work


def _compiled(training: GRPOTraining, form: Form, kind: Kind, given: Trees) -> _Program:
    abstract, at = training.abstract, jax.ShapeDtypeStruct((), jnp.int32)
    asked = training.config.rollout
    make = make_roll(training.objective, form, asked.group, asked.parts)
    roll = jax.jit(make, out_shardings=training.rows)
    roll = roll.lower(abstract.trained, abstract.key, at, given, training.asked()).compile()
    lowered = training.step.lower(abstract, kind.batch, given)
    update = lowered.compile()
    flops = count_flops(roll).total + training.config.updates * count_flops(update).total
    return _Program(roll, update, lowered.out_info[1], Work(kind.tokens, flops))


class Rounds:
    """A `Step` of one iteration, compiled for each form; `done` has what each was for the report."""

    def __init__(
        self,
        training: GRPOTraining,
        given: Trees,
        folder: pathlib.Path | None,
        on_compiled: Callable[[Kind, Work, float], None],
    ):
        """folder: of the run, for videos; None keeps none. on_compiled: see `programs.Programs`."""
        self._training, self._config, self._folder = training, training.config, folder
        self._owned = owned(training.rows, self._config.rollout.prompts * self._config.rollout.group)
        self._rewards, self._weights = training.rewards, [each.settings.weight for each in training.rewards]
        self._decoder = training.decoder()
        self._idle = [0] * len(training.forms)
        self.done: collections.deque[Work] = collections.deque()
        self._programs: list[_Program] = []
        for form, kind in zip(training.forms, training.kinds, strict=True):
            start = time.perf_counter()
            self._programs.append(_compiled(training, form, kind, given))
            on_compiled(kind, self._programs[-1].work, time.perf_counter() - start)

    def __call__(self, state: TrainState, prompts: Prompts, given: Trees) -> tuple[TrainState, Metrics]:
        """One iteration. The state is donated."""
        at = int(state.step)
        program, clock = self._programs[at % len(self._programs)], _Clock()
        latents, finite, batch = program.roll(state.trained, state.key, np.int32(at), given, prompts)
        jax.block_until_ready(latents)
        clock.lap("rollout")
        asked = self._training.placement.fetch(prompts.numbers)
        texts = [self._training.prompts[one] for one in np.repeat(asked, self._config.rollout.group)]
        frames = self._decoder(latents)
        del latents
        clock.lap("decoding")
        scores = self._scores(frames, texts)
        finite = self._training.placement.fetch(finite)
        if not finite.all():
            scores[:, ~finite] = np.nan  # what is no video has no score, however black frames are judged
            if processes.is_main():
                logger.warning("iteration %d: %d videos are NaN or infinite and left out", at + 1, (~finite).sum())
        clock.lap("rewards")
        rewards = scores.reshape(len(self._rewards), self._config.rollout.prompts, -1)
        kept = complete(rewards, self._weights)
        gained = advantages(rewards, self._weights, self._config.objective.scale)
        self._show(at + 1, frames, texts, scores, gained)
        if self._nothing_judged(at + 1, kept):
            told = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.metrics)
            told["finite"] = _average([1])
        else:
            state, told = self._updated(program, state, batch, given, gained, kept)
        clock.lap("update")
        self.done.append(program.work)
        # Updates count steps, but an iteration is one, whatever they are.
        state = dataclasses.replace(state, step=self._training.placement.put(np.int32(at + 1)))
        return state, told | self._measured(rewards, kept) | clock.metrics

    def _scores(self, frames: Mapping[int, np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """(K, B) float32 of the videos of all processes, in all of them; each is judged once. NaN where that failed."""
        scores = np.zeros((len(self._rewards), len(texts)), np.float32)
        if self._owned:
            videos = [frames[row] for row in self._owned]
            told = [texts[row] for row in self._owned]
            scores[:, self._owned] = gather(self._rewards, videos, told, fps=self._config.rollout.fps).scores
        if processes.count() > 1:
            scores = np.asarray(multihost_utils.process_allgather(scores)).sum(axis=0)
        return scores

    def _nothing_judged(self, at: int, kept: np.ndarray) -> bool:
        """Whether no group has all its rewards; raises InputError when that has happened too often in a row."""
        form = (at - 1) % len(self._idle)
        if kept.any():
            self._idle[form] = 0
            return False
        self._idle[form] += 1
        told = f"iteration {at}: none of {len(kept)} groups has all its rewards"
        if self._idle[form] == self._config.patience:
            raise InputError(
                f"{told}, for the {self._idle[form]}th time in a row: expected rewards that answer; look at the "
                "warnings and at the reward servers, then start the run again. It goes on behind its last checkpoint"
            )
        if processes.is_main():
            logger.warning("%s, so nothing is updated", told)
        return True

    def _updated(
        self,
        program: _Program,
        state: TrainState,
        batch: Judged,
        given: Trees,
        gained: np.ndarray,
        kept: np.ndarray,
    ) -> tuple[TrainState, Metrics]:
        """All updates by one rollout. The mean is over the groups that are kept."""
        weight = np.repeat(kept / kept.mean(), gained.shape[1]).astype(np.float32)
        batch = dataclasses.replace(batch, advantage=self._cut(gained.reshape(-1)), weight=self._cut(weight))
        told: list[Metrics] = []
        for _ in range(self._config.updates):
            state, metrics = program.update(state, batch, given)
            told.append(jax.device_get(metrics))
        added = {name: sum((one[name] for one in told[1:]), told[0][name]) for name in told[0]}
        return state, added | {"finite": _average([min(float(one["finite"].value) for one in told)])}

    def _cut(self, values: np.ndarray) -> Array:
        return jax.make_array_from_callback(values.shape, self._training.rows, lambda index: values[index])

    def _measured(self, rewards: np.ndarray, kept: np.ndarray) -> Metrics:
        found: Metrics = {"dropped groups": _average([(~kept).sum()])}
        for opened, of_one in zip(self._rewards, rewards[:, kept], strict=True):
            told = of_one[np.isfinite(of_one).all(axis=-1)]  # one without a weight may have failed
            found[f"reward {opened.name}"] = _average(told)
            found[f"reward std {opened.name}"] = _average(told.std(axis=-1))
        return found

    def _show(
        self,
        at: int,
        frames: Mapping[int, np.ndarray],
        texts: Sequence[str],
        scores: np.ndarray,
        gained: np.ndarray,
    ) -> None:
        """The main process's first videos, in RUN/samples/STEP/GROUP-MEMBER, if it is time for them."""
        every, count = self._config.samples.every, self._config.samples.count
        if self._folder is None or not every or at % every or not processes.is_main():
            return
        place, group = self._folder / FOLDER / f"{at:07d}", gained.shape[1]
        for row in self._owned[:count]:
            rewards = {opened.name: _number(scores[k, row]) for k, opened in enumerate(self._rewards)}
            told = {"step": at, "prompt": texts[row], "rewards": rewards, "advantage": float(gained.flat[row])}
            name = place / f"{row // group:03d}-{row % group:02d}"
            if len(frames[row]) == 1:
                write_png(name.with_suffix(".png"), frames[row][0], told)
            else:
                write_video(name.with_suffix(".mp4"), frames[row], self._config.rollout.fps, told)


class _Clock:
    """Seconds of an iteration's parts, as metrics."""

    def __init__(self) -> None:
        self._laps: Metrics = {}
        self._start = self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[f"seconds {name}"] = _average([now - self._since])
        self._since = now

    @property
    def metrics(self) -> Metrics:
        """Of each, and "seconds" of all until the last."""
        return self._laps | {"seconds": _average([self._since - self._start])}


def owned(rows: Sharding, count: int) -> list[int]:
    """Rows of a batch that this process answers for: of those that several hold, the first process."""
    first: dict[int, int] = {}
    for device, (cut, *_) in rows.devices_indices_map((count,)).items():
        for row in range(*cut.indices(count)):
            first[row] = min(first.get(row, device.process_index), device.process_index)
    return [row for row in range(count) if first[row] == processes.index()]


def _average(values: Any) -> Average:
    values = np.asarray(values, np.float32)
    return Average(values.sum(dtype=np.float32), np.float32(values.size))


def _number(value: np.float32) -> float | None:
    return float(value) if np.isfinite(value) else None
