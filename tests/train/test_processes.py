"""Training by several real processes: the numbers of one, one asked to go saves and ends all, one killed ends all."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

import devices

pytestmark = pytest.mark.slow

PROGRAM = pathlib.Path(__file__).with_name("program.py")


@contextlib.contextmanager
def processes(count, *args):
    """That many of one run, each with one device; none outlives the block."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, args), "--distributed", coordinator, str(count), str(index)],
            env=devices.environment(),
            cwd=devices.ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def results(started):
    """The last line of each, once all have ended well."""
    ends = [json.loads(process.communicate(timeout=300)[0].splitlines()[-1]) for process in started]
    assert [process.returncode for process in started] == [0] * len(started)
    return ends


def test_two_and_four_processes_train_as_one(tmp_path):
    trained = {}
    for count, mesh in ((1, "data=1"), (2, "data=2"), (4, "data=2,fsdp=2")):
        folder = tmp_path / str(count)
        with processes(count, 3, folder, "--mesh", mesh) as started:
            ends = results(started)
        assert {end["step"] for end in ends} == {3}
        assert len({end["digest"] for end in ends}) == 1
        trained[count] = np.load(folder / "trained.npy")
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 3
    for count in (2, 4):
        np.testing.assert_allclose(trained[count], trained[1], atol=2e-5)


def test_sigterm_to_one_saves_and_ends_all(tmp_path):
    """At the same step; and the next run goes on to where an undisturbed one ends, to the last bit."""
    stopped, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    with processes(2, 60, stopped, "--mesh", "data=2", "--pace", 0.2) as started:
        seen = 0
        while seen < 4:
            seen += started[1].stdout.readline() == "batch\n"
        started[1].send_signal(signal.SIGTERM)
        ends = results(started)
    assert {end["end"] for end in ends} == {"preempted"}
    (step,) = {end["step"] for end in ends}
    assert 4 <= step < 60
    assert str(step) in os.listdir(stopped / "checkpoints")
    with processes(2, 60, stopped, undisturbed, "--mesh", "data=2") as started:
        texts = [process.communicate(timeout=300)[0] for process in started]
    lines = [[json.loads(line) for line in text.splitlines() if line.startswith("{")] for text in texts]
    assert {end["end"] for ends in lines for end in ends} == {"finished"}
    assert len({end["digest"] for ends in lines for end in ends}) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_one_killed_ends_the_other_within_a_minute(tmp_path, victim):
    with processes(2, 600, tmp_path, "--mesh", "data=2", "--pace", 0.2) as started:
        while started[victim].stdout.readline() != "batch\n":
            pass
        started[victim].kill()
        other = started[1 - victim]
        _, said = other.communicate(timeout=60)
    assert other.returncode == 1
    assert f"error: process {victim} of 2 is gone" in said
