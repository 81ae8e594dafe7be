"""How processes meet, and what is said when they do not. Threads stand for processes; what kills is elsewhere."""

import concurrent.futures
import socket
import time

import pytest

import together
from lcv_jax.errors import InputError
from lcv_jax.parallel.lifelines import _connected, gather, reach


@pytest.fixture
def start():
    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield pool.submit


def test_all_come_in_any_order_and_the_port_is_free_for_jax(start):
    port = together.free_port()
    workers = [start(reach, "localhost", port, i, 3, 20) for i in (2, 1)]
    main = start(gather, port, 3, 20)
    assert main.result().lines.keys() == {1, 2}
    assert [w.result().process for w in workers] == [2, 1]
    with socket.create_server(("", port)):
        pass  # while the connections are open


def test_strangers_are_sent_away(start):
    port = together.free_port()
    main = start(gather, port, 2, 20)
    for said in (b"GET / HTTP/1.1\n", b"[1]\n", b'{"process": 1}\n', b"x" * 10000, b""):
        with _connected("localhost", port, time.monotonic() + 10, "") as stranger:
            stranger.sendall(said)
    worker = start(reach, "localhost", port, 1, 2, 20)
    assert main.result().lines.keys() == {1}
    worker.result()


def test_a_coordinator_that_is_not_there():
    with pytest.raises(InputError, match=r"process 0 cannot be reached .* check the address"):
        reach("localhost", together.free_port(), 1, 2, 0.5)


def test_processes_that_do_not_come(start):
    port = together.free_port()
    worker = start(reach, "localhost", port, 2, 4, 20)
    with pytest.raises(InputError, match="of 4 processes number 1, 3 did not come in time"):
        gather(port, 4, 3)
    with pytest.raises(InputError, match="number 1, 3 did not come in time"):
        worker.result()


@pytest.mark.parametrize(
    ("ids", "of", "message"),
    [((1,), 3, "process 1 was started as one of 3 processes, process 0 as one of 2"), ((1, 1), 3, "started twice")],
)
def test_processes_that_disagree(start, ids, of, message):
    port = together.free_port()
    workers = [start(reach, "localhost", port, i, of, 20) for i in ids]
    with pytest.raises(InputError, match=message):
        gather(port, 2 if len(ids) == 1 else 3, 20)
    for worker in workers:
        with pytest.raises(InputError, match=message):
            worker.result()


def test_a_port_that_is_taken():
    with socket.create_server(("", 0)) as taken, pytest.raises(InputError, match=r"cannot be used .* one that is free"):
        gather(taken.getsockname()[1], 2, 1)


def test_a_coordinator_that_is_another_program(start):
    with socket.create_server(("localhost", 0)) as other:
        worker = start(reach, "localhost", other.getsockname()[1], 1, 2, 5)
        connection, _ = other.accept()
        connection.sendall(b"HTTP/1.1 400 Bad Request\n")
        with pytest.raises(InputError, match="let process 1 of 2 not join"):
            worker.result()
        connection.close()
