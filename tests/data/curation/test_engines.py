"""The pool of processes: what each item's end costs, that nobody is left behind, and that runs continue."""

import multiprocessing
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from curation_stages import Trial, command, library_of
from lcv_jax.data.curation.advance import advance
from lcv_jax.data.curation.engines import EngineSettings, run_stage
from lcv_jax.errors import InputError

TESTS = pathlib.Path(__file__).parents[2]


def ended(stage, tmp_path, **settings):
    """Outcomes by item, of a run of two workers."""
    engine = EngineSettings(**{"workers": 2, "max_failed": 1.0, **settings})
    library = library_of(stage, tmp_path / "library")
    found = [outcome for outcome in run_stage(stage, library, stage.tasks(library), engine) if outcome]
    assert len(found) == len(stage.items)
    return {outcome.id: outcome for outcome in found}


def test_each_item_ends_as_it_does(tmp_path):
    items = ("rows 1", "reject", "raise", "rows 0", "once raise", "SIGSEGV", "once SIGKILL", "exit", "rows 300")
    stage = Trial(str(tmp_path), items)
    found = ended(stage, tmp_path)
    seen = [(found[f"item-{n}"].status, found[f"item-{n}"].attempts, len(found[f"item-{n}"].rows)) for n in range(9)]
    assert seen == [
        ("done", 1, 1),
        ("rejected", 1, 0),
        ("failed", 2, 0),
        ("done", 1, 0),
        ("done", 2, 1),
        ("failed", 2, 0),
        ("done", 2, 1),
        ("failed", 2, 0),
        ("done", 1, 300),
    ]
    assert [stage.attempts(n) for n in range(9)] == [1, 1, 2, 1, 2, 2, 2, 2, 1]
    assert found["item-1"].reason == "this one: cannot be used; expected another"
    assert found["item-2"].reason.startswith("RuntimeError: broken in two lines (curation_stages.py:")
    assert found["item-5"].reason == "its process died (SIGSEGV)"
    assert found["item-7"].reason == "its process died (exit status 7)"


def test_who_hangs_ends_at_the_time_limit_and_the_others_do_not_wait(tmp_path):
    stage = Trial(str(tmp_path), ("hang", *["rows 1"] * 6))
    since = time.monotonic()
    found = ended(stage, tmp_path, timeout_s=3.0)
    assert time.monotonic() - since < 25
    assert (found["item-0"].status, found["item-0"].attempts) == ("failed", 2)
    assert found["item-0"].reason == "took longer than 3 seconds"
    assert found["item-0"].seconds >= 3
    assert all(found[f"item-{n}"].status == "done" and found[f"item-{n}"].attempts == 1 for n in range(1, 7))


def test_a_worker_is_kept_unless_it_shall_be_replaced(tmp_path):
    items = ("rows 1",) * 5
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    kept = ended(Trial(str(tmp_path / "a"), items), tmp_path, workers=1)
    replaced = ended(Trial(str(tmp_path / "b"), items), tmp_path, workers=1, items=2)
    assert len({outcome.rows[0]["process"] for outcome in kept.values()}) == 1
    assert len({outcome.rows[0]["process"] for outcome in replaced.values()}) == 3


def test_temporary_files_go_with_a_worker_however_it_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "scratch").mkdir()
    stage = Trial(str(tmp_path), ("keep", "SIGKILL", "keep", "rows 1"))
    ended(stage, tmp_path)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize(
    ("opening", "message"),
    [("reject", "stage trial: this one: cannot be used"), ("raise", "stage trial: RuntimeError: broken")],
)
def test_a_worker_that_cannot_be_opened_ends_the_stage(tmp_path, opening, message):
    stage = Trial(str(tmp_path), ("rows 1",) * 4, opening=opening)
    with pytest.raises(InputError, match=message):
        ended(stage, tmp_path)
    assert not multiprocessing.active_children()


def test_a_worker_that_dies_when_it_is_opened_ends_the_stage_after_some_items(tmp_path, monkeypatch):
    monkeypatch.setattr("lcv_jax.data.curation.engines._FEW", 3)
    stage = Trial(str(tmp_path), ("rows 1",) * 30, opening="SIGKILL")
    library = library_of(stage, tmp_path / "library")
    with pytest.raises(InputError, match=r"3 of 3 items failed.*died \(SIGKILL\).*--retry failed"):
        advance(stage, library, EngineSettings(workers=2))
    assert library.table("trial").outcomes().column("attempts").to_pylist() == [2] * 3


def test_too_many_failures_end_a_stage_and_some_do_not(tmp_path):
    stage = Trial(str(tmp_path), tuple("raise" if number % 10 == 0 else "rows 1" for number in range(300)))
    library = library_of(stage, tmp_path / "library")
    with pytest.raises(InputError, match=r"2\d of 2\d\d items failed, more than max_failed=0.05"):
        advance(stage, library, EngineSettings(workers=1))
    assert 200 <= len(library.table("trial").outcomes()) < 220  # what was done is kept
    advance(stage, library, EngineSettings(workers=1, max_failed=0.2))
    assert sorted(stage.attempts(n) for n in range(300)) == [1] * 270 + [2] * 30


def test_failed_and_rejected_items_are_done_again_when_asked(tmp_path):
    stage = Trial(str(tmp_path), ("rows 1", "raise", "reject"))
    library = library_of(stage, tmp_path / "library")
    engine = EngineSettings(workers=1, max_failed=1.0)
    for again, attempts in (((), [1, 2, 1]), ((), [1, 2, 1]), (("failed",), [1, 4, 1]), (("rejected",), [1, 4, 2])):
        advance(stage, library, engine, again)
        assert [stage.attempts(n) for n in range(3)] == attempts
    assert sorted(library.table("trial").outcomes().column("id").to_pylist()) == ["item-0", "item-1", "item-2"]


def test_settings_are_checked():
    for settings, message in (
        ({"workers": 0}, "workers=0: expected at least 1"),
        ({"items": -1}, "items=-1: expected at least 0"),
        ({"timeout_s": 0.0}, "timeout_s=0.0: expected seconds above 0"),
        ({"max_failed": 0.0}, "max_failed=0.0: expected a share above 0, up to 1"),
        ({"address": "auto"}, "address='auto': is Ray's"),
        ({"gpus": 0.5}, "gpus=0.5: is Ray's"),
        ({"gpus": -1.0, "kind": "ray"}, "gpus=-1.0: expected 0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            EngineSettings(**settings)


def started(stage, root, **how):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    pipe = subprocess.PIPE
    return subprocess.Popen(command(stage, root), env=environment, stdout=pipe, stderr=pipe, text=True, **how)


def wait_for(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def begun(stage, items):
    """How often any of them was begun."""
    return sum(stage.attempts(number) for number in range(len(items)))


def gone(processes):
    """Whether none of them lives; who ended but was not waited for by a parent outside of this test does not."""
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


@pytest.mark.parametrize("what", ["rows 1", "hang"])
def test_a_driver_that_is_killed_leaves_nobody_behind(tmp_path, what):
    stage = Trial(str(tmp_path), (what,) * 1000, seconds=0.05)
    driver = started(stage, tmp_path / "library")
    wait_for(lambda: stage.attempts(1))
    children = psutil.Process(driver.pid).children(recursive=True)
    assert len(children) >= 2
    driver.kill()
    driver.communicate()
    wait_for(lambda: gone(children), seconds=5.0)


def test_ctrl_c_ends_with_a_line_and_keeps_what_is_done(tmp_path):
    stage = Trial(str(tmp_path), ("rows 1",) * 1000, seconds=0.02)
    driver = started(stage, tmp_path / "library", start_new_session=True)
    wait_for(lambda: stage.attempts(20))
    children = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, said = driver.communicate(timeout=20)
    assert driver.returncode == 130
    assert said.strip().splitlines()[-1] == "error: interrupted; what is done is kept"
    assert "Traceback" not in said
    wait_for(lambda: gone(children), seconds=5.0)
    assert len(library_of(stage, tmp_path / "library").table("trial").outcomes()) >= 15


@pytest.mark.parametrize(
    ("most", "count"), [(1, 300), pytest.param(8, 2000, marks=pytest.mark.slow)], ids=["once", "again and again"]
)
def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path, most, count):
    """Nothing lost, nothing twice, nothing left over, wherever the kill falls."""
    items = tuple(("rows 2", "rows 1", "rows 0", "reject", "once raise")[n % 5] for n in range(count))
    stage = Trial(str(tmp_path), items, seconds=0.002)
    rng = random.Random(5)
    table = library_of(stage, tmp_path / "library").table("trial")
    kills = 0
    while len(table.outcomes()) < len(items):
        before = begun(stage, items)
        driver = started(stage, tmp_path / "library")
        if kills < most:
            some = rng.randrange(count // 10, count - count // 10)  # items on, which may be behind the end
            wait_for(lambda: begun(stage, items) >= before + some or driver.poll() is not None)  # noqa: B023
            driver.kill()
        driver.communicate(timeout=60)
        kills += 1
    assert kills >= 2
    outcomes = {row["id"]: row for row in table.outcomes().to_pylist()}
    kinds = {"rows 2": ("done", 2), "rows 1": ("done", 1), "rows 0": ("done", 0), "reject": ("rejected", 0)}
    for number, what in enumerate(items):
        row = outcomes[f"item-{number}"]
        assert (row["status"], row["rows"]) == kinds.get(what, ("done", 1))
    rows = sorted((row["item"], row["number"]) for row in table.rows().to_pylist())
    assert rows == sorted((name, n) for name, row in outcomes.items() for n in range(row["rows"]))
    assert not list(table.folder.glob(".*.part"))


@pytest.mark.slow
def test_a_worker_has_one_thread_for_each_library(tmp_path):
    """In a process of its own, as the number of threads is settled when a library is loaded."""
    program = (
        "import curation_stages, multiprocessing, os\n"
        "from lcv_jax.data.curation.local_pool import _starting\n"
        "from lcv_jax.data.curation.engines import QUIET_THREADS\n"
        "if __name__ == '__main__':\n"
        "    with _starting(QUIET_THREADS):\n"
        "        process = multiprocessing.get_context('spawn').Process(target=curation_stages.count_threads)\n"
        "        process.start()\n"
        "    process.join()\n"
        "    assert 'PJRT_NPROC' not in os.environ\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "PJRT_NPROC")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counted = dict(line.split() for line in done.stdout.splitlines())
    assert counted == {"numpy": "1", "cv2": "1", "jax": "1"}
