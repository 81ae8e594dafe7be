"""Programs of the tests in processes of their own, with as many virtual CPU devices as they want."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]


def environment(devices: int = 1, **variables: str) -> dict[str, str]:
    """For a program that imports what the tests do. Least optimised, as the tests themselves: compiling takes longest.

    variables: of the environment, in place of these.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}".strip()
    quick = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return {**os.environ, **quick, "PYTHONPATH": paths, "XLA_FLAGS": flags, **variables}


def run(*command: object, devices: int = 8, **variables: str) -> subprocess.CompletedProcess:
    """Python with these arguments, in the project's folder; fails the test if it fails."""
    command = [sys.executable, *map(str, command)]
    env = environment(devices, **variables)
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done


def report(*command: object, devices: int = 8, **variables: str) -> Any:
    """The JSON that a program prints."""
    return json.loads(run(*command, devices=devices, **variables).stdout)
