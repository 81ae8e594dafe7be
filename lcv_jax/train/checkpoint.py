"""Checkpoints of a run: its state and where its data stands, written in the background, whole or not at all.

Every process saves and restores the shards it holds. A checkpoint of one mesh restores onto another, because what is
asked for says where it shall lie. The data's position is one for the whole run, not one for each process, so that the
number of processes may change as well.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from lcv_jax.errors import InputError
from lcv_jax.train.state import TrainState

FOLDER = "checkpoints"
STATE, _DATA = "state", "data"


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint's content. data: what the source of batches continues from."""

    state: TrainState
    data: Mapping[str, Any]


class Checkpoints:
    """The folder checkpoints/ of a run, with one folder for each saved step; to be closed, best with `with`.

    run: a local folder, gs:// or s3://. keep: how many of the newest stay. A step's folder appears when all of it is
    written; until then it has another name, and what a killed run left under such names is removed by the next.
    """

    def __init__(self, run: os.PathLike[str] | str, *, keep: int = 3):
        run = os.fspath(run)
        self.path = epath.Path(run if "://" in run else os.path.abspath(run)) / FOLDER
        handlers = {STATE: ocp.StandardCheckpointHandler(), _DATA: ocp.JsonCheckpointHandler()}
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            save_interval_steps=1,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
        )
        with _reported(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.path, options=options, item_handlers=handlers)

    @property
    def newest(self) -> int | None:
        """The last step that was saved; None in a new run."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, data: Mapping[str, Any]) -> None:
        """Starts writing. The state may be donated as soon as this returns. data: of JSON's types.

        Raises InputError when this or an earlier checkpoint could not be written; the ones before stay whole.
        """
        if step == self.newest:
            return
        items = {STATE: ocp.args.StandardSave(state), _DATA: ocp.args.JsonSave(dict(data))}
        with _reported(self.path):
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, abstract: TrainState, step: int | None = None) -> Restored:
        """The newest checkpoint or that of `step`, straight onto its shards.

        abstract: shapes, dtypes and shardings (state.abstract_state). Raises InputError if there is no such
        checkpoint, if it is damaged or of another model, optimizer or kind of state.
        """
        steps = self._manager.all_steps()
        step = self.newest if step is None else step
        if step not in steps:
            have = ", ".join(map(str, sorted(steps))) or "none"
            raise InputError(f"{self.path}: no checkpoint of step {step}: expected one of those there, {have}")
        self._compare(step, abstract)
        args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(abstract), _DATA: ocp.args.JsonRestore()})
        with _readable(self.path / str(step)):
            items = self._manager.restore(step, args=args)
            return Restored(items[STATE], items[_DATA])

    def wait(self) -> None:
        """Until everything is written."""
        with _reported(self.path):
            self._manager.wait_until_finished()

    def close(self) -> None:
        with _reported(self.path):
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _compare(self, step: int, abstract: TrainState) -> None:
        """Raises InputError unless the saved arrays are those asked for, by name and shape."""
        folder = self.path / str(step)
        with _readable(folder):
            have = _shapes(self._manager.item_metadata(step)[STATE])
        want = _shapes(jax.eval_shape(_key_data, abstract))
        for name in sorted(have.keys() | want.keys()):
            if have.get(name) != want.get(name):
                raise InputError(
                    f"{folder}: {name} has shape {have.get(name, 'none (it is not there)')}, expected "
                    f"{want.get(name, 'no such array')}: the checkpoint is of another model, optimizer or choice of "
                    "what is trained; give the settings it was made with, or another folder"
                )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """By name, the same for a tree of ours and for Orbax's record of it, in which all nodes are dicts."""
    named = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in named}


def _key_data(state: TrainState) -> TrainState:
    """With the random key as the numbers that are saved."""
    return dataclasses.replace(state, key=jax.random.key_data(state.key))


@contextlib.contextmanager
def _reported(path: epath.Path) -> Iterator[None]:
    """Errors of writing as InputError; TensorStore reports a full disk as a ValueError."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: a checkpoint cannot be written ({_short(error)}): make room, or choose another place; the "
            "checkpoints before it are whole"
        ) from error


@contextlib.contextmanager
def _readable(folder: epath.Path) -> Iterator[None]:
    """Whatever a broken file causes as InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{folder}: damaged or incomplete checkpoint ({_short(error)}): remove this folder to continue from the "
            "one before"
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
