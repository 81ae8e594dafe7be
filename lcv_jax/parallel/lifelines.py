"""Connections between the processes of a run, so that all end soon after one of them did.

JAX by itself aborts a process whose peer is gone, after its heartbeat's timeout and with pages of output, and also one
that cannot join. So processes first meet here, over plain TCP, where whatever is wrong can still be said in a line;
their connections then stay open. The system closes them when a process dies, however it dies, and notices by probes
(keepalive) when a machine is lost. Everything goes through process 0: a worker tells it, and it tells the others.

A message is a JSON object on a line. A worker's first, {"process": 1, "of": 2}, is answered by {"join": true} or
{"refused": why}; the last of anyone is {"done": 1} or {"failed": 1, "code": 2}. Who goes without a last one is gone.
"""

import contextlib
import dataclasses
import json
import logging
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

_LONGEST = 4096  # bytes of a message; whoever sends more is none of ours
_PROBE = {"TCP_KEEPIDLE": 10, "TCP_KEEPALIVE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # seconds, seconds, times
_GRACE = 2.0  # seconds that a process has to say what is wrong itself, when another failed: often both did, alike
_GONE = 1


class _Line:
    """One connection, as messages."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self._held = b""
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _PROBE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, message: Mapping[str, Any]) -> None:
        """A peer that is gone is noticed when reading, not here."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def messages(self) -> Iterator[dict[str, Any]]:
        """What one read gives; raises OSError at the end of the connection, ValueError on what is no message."""
        data = self.socket.recv(_LONGEST)
        if not data:
            raise ConnectionError("closed")
        *lines, self._held = (self._held + data).split(b"\n")
        if len(self._held) > _LONGEST:
            raise ValueError("a message without an end")
        for line in lines:
            message = json.loads(line)
            if not isinstance(message, dict):
                raise ValueError(f"a message that is {message!r}")
            yield message

    def receive(self, until: float) -> dict[str, Any]:
        """The next message, at a moment when the other side sends no more than one."""
        while True:
            self.socket.settimeout(max(until - time.monotonic(), 0.01))
            for message in self.messages():
                self.socket.settimeout(None)
                return message


@dataclasses.dataclass(frozen=True, eq=False)
class Lifelines:
    """The open connections of process `process` of `count`: process 0's to every worker, a worker's to process 0."""

    process: int
    count: int
    lines: Mapping[int, _Line] = dataclasses.field(repr=False)
    over: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)
    closed: threading.Event = dataclasses.field(default_factory=threading.Event, repr=False)

    def watch(self) -> None:
        """From now on this process ends, with a line on stderr, when another is gone or failed."""
        threading.Thread(target=self._watch, name="lifelines", daemon=True).start()

    def finished(self) -> None:
        """Says that this process may go: to be called when all have done their part."""
        self.over.set()
        self._tell({"done": self.process})

    def failed(self, code: int) -> None:
        """Says that this process ends with an error, and that the others shall."""
        self.over.set()
        self._tell({"failed": self.process, "code": code})
        if self.process == 0:
            self.closed.wait(_GRACE + 1)  # JAX aborts whoever is still there when process 0 is not

    def _tell(self, message: Mapping[str, Any]) -> None:
        for line in self.lines.values():
            line.send(message)

    def _watch(self) -> None:
        with selectors.DefaultSelector() as open_lines:
            for process, line in self.lines.items():
                open_lines.register(line.socket, selectors.EVENT_READ, process)
            while open_lines.get_map():
                for key, _ in open_lines.select():
                    if self._ended(key.data):
                        open_lines.unregister(key.fileobj)
        self.closed.set()

    def _ended(self, process: int) -> bool:
        """Reads from a process's line; whether there is nothing more to expect from it."""
        try:
            for message in self.lines[process].messages():
                if "done" in message:
                    return True
                if "failed" in message:
                    self._end(message, message["code"], "ended with an error; its own output says which")
                if "gone" in message:
                    self._end(message, _GONE, "is gone; without it this one cannot go on")
        except (OSError, ValueError):
            self._end({"gone": process}, _GONE, "is gone; without it this one cannot go on")
            return True
        return False

    def _end(self, message: Mapping[str, Any], code: int, what: str) -> None:
        if self.over.is_set():
            return
        self._tell(message)
        (process,) = (value for name, value in message.items() if name != "code")
        if "failed" in message and self.over.wait(_GRACE):
            return
        print(f"error: process {process} of {self.count} {what}", file=sys.stderr, flush=True)
        # Nothing less ends a process whose main thread waits in a collective. Files are written aside, so none is half.
        os._exit(code)


def gather(port: int, count: int, timeout: float) -> Lifelines:
    """Process 0's part: waits until processes 1 to count - 1 have come, and lets them go on. The port is free again
    afterwards, for JAX. Raises InputError, in all processes that have come, unless each comes once within `timeout`
    seconds and knows the same count."""
    until = time.monotonic() + timeout
    lines: dict[int, _Line] = {}
    try:
        with _listening(port) as listener:
            while len(lines) < count - 1:
                process, line = _hello(listener, until, count, lines)
                lines[process] = line
    except InputError as error:
        for line in lines.values():
            line.send({"refused": str(error)})
        raise
    for line in lines.values():
        line.send({"join": True})
    return Lifelines(0, count, lines)


def reach(host: str, port: int, process: int, count: int, timeout: float) -> Lifelines:
    """A worker's part. Raises InputError if process 0 cannot be reached within `timeout` seconds, or refuses."""
    until, where = time.monotonic() + timeout, f"coordinator {host}:{port}"
    line = _Line(_connected(host, port, until, where))
    line.send({"process": process, "of": count})
    try:
        answer = line.receive(until)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{where}: let process {process} of {count} not join ({error}): expected process 0 of a run that waits for "
            "it; start all processes anew"
        ) from None
    if "refused" in answer:
        raise InputError(f"{where}: {answer['refused']}")
    return Lifelines(process, count, {0: line})


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, backlog=128, dualstack_ipv6=both)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"coordinator port {port}: cannot be used ({error}): expected one that is free on the machine of process 0"
        ) from None
    with listener:
        yield listener


def _hello(listener: socket.socket, until: float, count: int, known: Mapping[int, _Line]) -> tuple[int, _Line]:
    """The next process to come."""
    while True:
        listener.settimeout(max(until - time.monotonic(), 0.01))
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            missing = ", ".join(str(process) for process in range(1, count) if process not in known)
            raise InputError(
                f"of {count} processes number {missing} did not come in time: start all with the same coordinator and "
                "number of processes, and see that they reach it"
            ) from None
        line = _Line(connection)
        try:
            said = line.receive(min(until, time.monotonic() + 5))
            process, of = int(said["process"]), int(said["of"])
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()  # none of ours
            continue
        problem = None
        if of != count:
            problem = f"process {process} was started as one of {of} processes, process 0 as one of {count}"
        elif process in known or not 0 < process < count:
            problem = f"process {process} of {count} was started twice"
        if problem is not None:
            line.send({"refused": problem})
            raise InputError(f"{problem}: expected ids 0 to N - 1, each once, and the same N everywhere")
        return process, line


def _connected(host: str, port: int, until: float, where: str) -> socket.socket:
    """Tries until process 0 is there, which may start later; its name may come to be known later too."""
    told = False
    while True:
        try:
            return socket.create_connection((host, port), timeout=max(until - time.monotonic(), 0.01))
        except (OSError, OverflowError) as error:
            if time.monotonic() + 0.2 > until:
                raise InputError(
                    f"{where}: process 0 cannot be reached ({error}): check the address, that process 0 was started, "
                    "and that no firewall stands between"
                ) from None
            if not told:
                logger.warning("%s: process 0 is not there (%s), waiting for it", where, error)
                told = True
            time.sleep(0.2)
