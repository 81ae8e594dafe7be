"""Starts several processes of one run on this machine, and gathers what became of them."""

import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from devices import environment


class Ended(NamedTuple):
    """seconds: from the start of all."""

    code: int
    out: str
    err: str
    seconds: float


def free_port() -> int:
    with socket.create_server(("", 0)) as listener:
        return listener.getsockname()[1]


class Together:
    """Processes of a run: one for each command line, which are those of Python. devices: of each. env: further
    variables of each."""

    def __init__(
        self,
        commands: Sequence[Sequence[str]],
        devices: int,
        cwd: pathlib.Path,
        env: Sequence[Mapping[str, str]] | None = None,
    ):
        self.begun = time.monotonic()
        self.running = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=cwd,
                env=environment(devices, **own),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command, own in zip(commands, env or [{}] * len(commands), strict=True)
        ]

    def ended(self, timeout: float = 240) -> list[Ended]:
        """Waits for all; one that does not end is killed, which its code -9 shows."""
        found = []
        for process in self.running:
            try:
                out, err = process.communicate(timeout=max(timeout - (time.monotonic() - self.begun), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            found.append(Ended(process.returncode, out, err, time.monotonic() - self.begun))
        return found
