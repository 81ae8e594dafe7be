"""Starts several processes of one run on this machine, and gathers what became of them."""

import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[1]


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
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "PYTHONPATH": str(ROOT)}
        self.begun = time.monotonic()
        self.running = [
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                cwd=cwd,
                env={**os.environ, **quick, "XLA_FLAGS": flags, **own},
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
