"""Several real processes: what they share, and how all end soon when one does."""

import json
import pathlib

import pytest

import together
from lcv_jax.errors import InputError
from lcv_jax.parallel import processes

PROGRAM = pathlib.Path(__file__).with_name("group.py")


def group(count, devices, *what, coordinator=None, env=None):
    coordinator = coordinator or f"localhost:{together.free_port()}"
    commands = [[PROGRAM, coordinator, count, i, *what] for i in range(count)]
    return together.Together(commands, devices, PROGRAM.parent, env).ended()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("host", 2, 0), "coordinator 'host': expected HOST:PORT"),
        (("host:port", 2, 0), "expected HOST:PORT"),
        (("host:70000", 2, 0), "expected HOST:PORT"),
        (("host:1", None, 0), "without the number of processes"),
        (("host:1", 2, None), "without the process id"),
        (("host:1", 0, 0), "0 processes: expected at least 1"),
        (("host:1", 2, 2), "process id 2 of 2 processes: expected 0 to 1"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_joined(settings, message):
    with pytest.raises(InputError, match=message):
        processes.start(*settings)


@pytest.mark.parametrize(("count", "index"), [(2, None), (None, 1)])
def test_a_process_that_is_alone_has_no_number(count, index):
    with pytest.raises(InputError, match="without a coordinator"), processes.joined(None, count, index):
        pass


def test_alone_everything_is_agreed():
    with processes.joined(None, None, None), pytest.raises(InputError, match="mine"), processes.agreed():
        raise InputError("mine")
    assert processes.is_main()
    assert processes.shared(b"mine") == b"mine"


def check_exchange(ended):
    for index, (code, out, err, _) in enumerate(ended):
        assert code == 0, err
        report = json.loads(out.strip().splitlines()[-1])
        refused = "my own reason" if index == 1 else "process 1 of 2 cannot go on; its own output says why"
        assert report == {
            "devices": 4,
            "bytes": "of 0",
            "arrays": {"frames": [[0, 1, 2], [3, 4, 5]]},
            "agreed": True,
            "refused": refused,
        }


@pytest.mark.smoke
def test_sharing_and_agreeing():
    check_exchange(group(2, 2, "exchange"))


@pytest.mark.slow
def test_a_cluster_that_jax_detects():
    """By what Slurm sets for the two tasks of a job; of its number JAX makes a port."""
    job = {"SLURM_JOB_ID": str(together.free_port()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    env = [{**job, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    check_exchange(group(2, 2, "exchange", coordinator=processes.AUTO, env=env))


@pytest.mark.slow
def test_no_cluster_that_jax_detects():
    (ended,) = group(1, 1, "exchange", coordinator=processes.AUTO)
    assert ended.code == 2
    assert "error: coordinator auto: JAX knows no such cluster here" in ended.err


# JAX, too, notices that process 0 is gone, and says so at length; whose line is first is chance.
@pytest.mark.parametrize(
    ("what", "victim"),
    [
        pytest.param("collective", 1, marks=pytest.mark.smoke),
        pytest.param("collective", 0, marks=pytest.mark.slow),
        pytest.param("between", 1, marks=pytest.mark.slow),
        pytest.param("between", 0, marks=pytest.mark.slow),
        pytest.param("asked_to_go", 1, marks=pytest.mark.slow),
    ],
)
def test_one_killed_ends_all(what, victim):
    count = 3
    for index, (code, out, err, seconds) in enumerate(group(count, 1, what, victim)):
        assert "joined" in out, err
        assert seconds < 60
        if index != victim:
            assert code == 1, err
            assert (
                err.splitlines()[-1] == f"error: process {victim} of {count} is gone; without it this one cannot go on"
            )


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_failing_ends_all_with_its_code(victim):
    for index, (code, _, err, seconds) in enumerate(group(3, 1, "failing", victim)):
        assert seconds < 60
        assert code == 2
        own = "the disk is full" if index == victim else f"process {victim} of 3 ended with an error"
        assert own in err
