"""A stage for tests of what runs stages: each item says what shall happen to it."""

import dataclasses
import os
import pathlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Trial:
    """items: what happens to each: "rows 3", "reject", "raise", "SIGKILL", "hang", "once SIGSEGV", which happens at the
    first attempt only, and so on. opening: what happens when a worker is opened. seconds: that an item takes. folder:
    where attempts leave marks."""

    name: ClassVar[str] = "trial"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = pa.schema([("item", pa.string()), ("number", pa.int64()), ("process", pa.int64())])
    after: ClassVar[tuple[str, ...]] = ()

    folder: str
    items: tuple[str, ...] = ()
    opening: str = "rows 0"
    seconds: float = 0.0

    def decides(self) -> Mapping[str, Any]:
        return {"items": self.items}

    def check(self) -> None:
        if not pathlib.Path(self.folder).is_dir():
            raise InputError(f"{self.folder}: no such folder")

    def tasks(self, library: Library) -> Iterable[Task]:
        for number, what in enumerate(self.items):
            yield Task(f"item-{number}", {"item": f"item-{number}", "what": what}, -number)

    def open(self, library: Library) -> Worker:
        _happen(self.opening)
        return self._work

    def _work(self, given: Row) -> Sequence[Row]:
        with (pathlib.Path(self.folder) / given["item"]).open("a") as marks:
            marks.write(f"{os.getpid()}\n")
        time.sleep(self.seconds)
        what = given["what"]
        if what.startswith("once "):
            first = len((pathlib.Path(self.folder) / given["item"]).read_text().splitlines()) == 1
            what = what.removeprefix("once ") if first else "rows 1"
        rows = _happen(what)
        return [{"item": given["item"], "number": number, "process": os.getpid()} for number in range(rows)]

    def attempts(self, item: int) -> int:
        marks = pathlib.Path(self.folder) / f"item-{item}"
        return len(marks.read_text().splitlines()) if marks.is_file() else 0


def _happen(what: str) -> int:
    """How many rows there are, if there are some."""
    word, _, number = what.partition(" ")
    if word == "rows":
        return int(number)
    if word == "reject":
        raise InputError("this one: cannot be used; expected another")
    if word == "raise":
        raise RuntimeError("broken\nin two lines")
    if word == "exit":
        sys.exit(7)
    if word == "hang":
        time.sleep(1000)
    if word == "keep":  # a temporary file that nobody removes
        tempfile.mkstemp()
        return 0
    os.kill(os.getpid(), getattr(signal, word))
    time.sleep(10)
    return 0


def library_of(stage: Trial, root: pathlib.Path) -> Library:
    return Library(root).with_stage(stage.name, stage.schema, stage.decides(), stage.after)


def command(stage: Trial, root: pathlib.Path, workers: int = 2) -> list[str]:
    """A process of its own that does the stage as the command does."""
    program = (
        "import sys, curation_stages, pathlib\n"
        "from lcv_jax.command_line import status\n"
        "from lcv_jax.data.curation.advance import advance\n"
        "from lcv_jax.data.curation.engines import EngineSettings\n"
        f"stage, root = curation_stages.{stage!r}, pathlib.Path({str(root)!r})\n"
        "library = curation_stages.library_of(stage, root)\n"
        f"settings = EngineSettings(workers={workers})\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(status(lambda: advance(stage, library, settings), 'what is done is kept'))\n"
    )
    return [sys.executable, "-c", program]


def count_threads() -> None:
    """Says how many threads took a share of some work worth counting, by library."""
    import cv2
    import jax
    import numpy as np
    import psutil

    def busy() -> dict[int, float]:
        return {thread.id: thread.user_time for thread in psutil.Process().threads()}

    square = np.ones((1000, 1000), np.float32)
    product = jax.jit(lambda x: x @ x)
    product(square).block_until_ready()
    works = {
        "numpy": lambda: square @ square,
        "cv2": lambda: cv2.GaussianBlur(square, (31, 31), 5.0),
        "jax": lambda: product(square).block_until_ready(),
    }
    for name, work in works.items():
        before, until = busy(), time.monotonic() + 1.0
        while time.monotonic() < until:
            work()
        spent = [seconds - before.get(thread, 0.0) for thread, seconds in busy().items()]
        print(name, sum(share > 0.1 * sum(spent) for share in spent))
