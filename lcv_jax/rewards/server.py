"""A small HTTP server of rewards, so that they run on other machines; wire.py says what travels.

It has no password and no encryption: bind it to this machine, or to a network of your own.
"""

import dataclasses
import http.server
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.rewards import wire
from lcv_jax.rewards.in_turn import InTurn
from lcv_jax.rewards.protocol import RewardFailed

logger = logging.getLogger(__name__)

_STALLED = 60.0  # seconds after which a connection that sends nothing is closed


class Refused(Exception):
    """A request that is not answered with 200: the status, and one line."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status = status


class Server(http.server.ThreadingHTTPServer):
    """Answers for `rewards`, each request in a thread. most_bytes: of one. Raises InputError where the address cannot
    be bound. `url` says where it is; port 0 is one that is free.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, rewards: Sequence[InTurn], host: str, port: int, most_bytes: int):
        self.rewards: Mapping[str, InTurn] = {each.name: each for each in rewards}
        self.most_bytes = most_bytes
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"address {host}:{port}: cannot be bound ({error}); choose another host or port"
            ) from error

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host}:{port}"

    def describe(self) -> dict[str, Any]:
        """What GET /rewards answers."""
        picks = {name: dataclasses.asdict(each.picks) for name, each in self.rewards.items()}
        return {"rewards": picks, "most_bytes": self.most_bytes}

    def reward(self, name: str) -> InTurn:
        """The reward of a name. Raises Refused where there is none."""
        if name not in self.rewards:
            raise Refused(HTTPStatus.NOT_FOUND, f"reward {name!r}: not served; expected {', '.join(self.rewards)}")
        return self.rewards[name]

    def score(self, request: wire.Request) -> dict[str, Any]:
        """What POST /score answers; RewardFailed where it is not the request's turn before nobody waits any more."""
        reward = dataclasses.replace(self.reward(request.reward), patience_s=request.patience_s)
        scores = np.asarray(reward(request.videos, request.prompts))
        if scores.shape != (len(request.prompts),):
            raise RewardFailed(f"reward {request.reward}: gave {scores.shape}, expected {len(request.prompts)} scores")
        return {"scores": wire.scores_to_json(scores)}


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    timeout = _STALLED
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._respond(self._get)

    def do_POST(self) -> None:
        self._respond(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug("%s " + format, self.address_string(), *args)

    def _get(self) -> dict[str, Any]:
        if self.path != "/rewards":
            raise _unknown(self.path)
        return self.server.describe()

    def _post(self) -> dict[str, Any]:
        if self.path not in ("/check", "/score"):
            raise _unknown(self.path)
        body = self._body()
        try:
            if self.path == "/score":
                request = wire.decode(body)
            else:
                asked = wire.json_object(bytes(body), ("reward", "prompts"))
                wire.check_names(asked)
        except ValueError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        if self.path == "/score":
            return self.server.score(request)
        self.server.reward(asked["reward"]).check(asked["prompts"])
        return {}

    def _body(self) -> bytearray:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdecimal():
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "Content-Length: expected the number of bytes of the body")
        if int(length) > self.server.most_bytes:
            line = (
                f"{int(length):,} bytes, at most {self.server.most_bytes:,} are taken; send fewer videos in a request"
            )
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)
        body = bytearray(int(length))
        view = memoryview(body)
        while view:
            count = self.rfile.readinto(view)
            if not count:
                raise ConnectionError(f"{len(view)} bytes of the body are missing")
            view = view[count:]
        return body

    def _respond(self, work: Callable[[], dict[str, Any]]) -> None:
        """Sends what `work` gives, or what is wrong, as JSON; where nobody listens any more, nothing."""
        try:
            status, answer = HTTPStatus.OK, work()
        except Refused as refused:
            status, answer = refused.status, {"error": str(refused)}
        except InputError as error:
            status, answer = HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(error)}
        except RewardFailed as error:
            status, answer = HTTPStatus.SERVICE_UNAVAILABLE, {"error": str(error)}
        except (ConnectionError, TimeoutError) as error:
            logger.warning("%s: gone before the end of its request (%s)", self.address_string(), error)
            return
        except Exception as error:  # of a model; the server goes on
            logger.exception("%s failed", self.path)
            status, answer = HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"}
        text = json.dumps(answer).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)
        except OSError as error:
            logger.warning("%s: gone before the answer (%s)", self.address_string(), error)


def _unknown(path: str) -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, f"{path}: expected GET /rewards, POST /check or POST /score")
