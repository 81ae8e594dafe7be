"""Scalars in TensorBoard's format, written by who calls.

The writer of tensorboardX hands them to a thread over a short queue; a full disk ends the thread without a word, and
who fills the queue then waits without end.
"""

import os
import pathlib

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from lcv_jax.data.files import unwritable


class Board:
    """One file of events in `folder`. after: the step that a run continues from; TensorBoard hides what earlier files
    have of later ones. Every method raises InputError where the disk is full, or the folder cannot be written."""

    def __init__(self, folder: pathlib.Path, after: int):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._events = EventsWriter(str(folder / "events"), f".{os.getpid()}")
            self._events.write_event(Event(step=after + 1, session_log=SessionLog(status=SessionLog.START)))
        except OSError as error:
            raise unwritable(folder, error) from error

    def write(self, step: int, seconds: float, scalars: dict[str, float]) -> None:
        """seconds: of the clock (time.time)."""
        try:
            for name, value in scalars.items():
                self._events.write_event(Event(wall_time=seconds, step=step, summary=scalar(name, value)))
            self._events.flush()
        except OSError as error:
            raise unwritable(self.folder, error) from error

    def close(self) -> None:
        try:
            self._events.close()
        except OSError as error:
            raise unwritable(self.folder, error) from error
