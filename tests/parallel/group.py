"""One process of several, run by test_process_group.py: group.py COORDINATOR COUNT ID WHAT [VICTIM]. Prints JSON."""

import json
import os
import signal
import sys
import time

import numpy as np
from jax.experimental import multihost_utils

from lcv_jax.errors import InputError
from lcv_jax.parallel import processes


def exchange():
    """What one has, all get; what one refuses, all refuse."""
    index, report = processes.index(), {"devices": len(multihost_utils.jax.devices())}
    report["bytes"] = processes.shared(b"of 0" if index == 0 else b"of another").decode()
    arrays = {"frames": np.arange(6, dtype=np.uint8).reshape(2, 3)} if index == 0 else {}
    report["arrays"] = {name: value.tolist() for name, value in processes.shared_arrays(arrays).items()}
    with processes.agreed():
        report["agreed"] = True
    try:
        with processes.agreed():
            if index == 1:
                raise InputError("my own reason")
    except InputError as error:
        report["refused"] = str(error)
    print(json.dumps(report), flush=True)


def collective(victim):
    """The victim dies while the others wait for it in a collective."""
    if processes.index() == victim:
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    processes.barrier("never reached by all")


def between(victim):
    """The victim dies while the others do something of their own."""
    if processes.index() == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(120)


def asked_to_go(victim):
    """The victim gets what a scheduler sends."""
    if processes.index() == victim:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    processes.barrier("never reached by all")


def failing(victim):
    """The victim ends with an error of its own."""
    if processes.index() == victim:
        raise InputError("the disk is full")
    processes.barrier("never reached by all")


def main(coordinator, count, index, what, *victim):
    numbers = (None, None) if coordinator == processes.AUTO else (int(count), int(index))
    try:
        with processes.joined(coordinator, *numbers, timeout=60):
            print("joined", flush=True)
            globals()[what](*map(int, victim))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        processes.leave(2)


if __name__ == "__main__":
    main(*sys.argv[1:])
