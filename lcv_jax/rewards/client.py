"""A reward that another machine computes."""

import dataclasses
import http.client
import json
import urllib.parse
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.errors import InputError
from lcv_jax.published import is_number
from lcv_jax.rewards import wire
from lcv_jax.rewards.protocol import FramePick, RewardFailed

_LONGEST_ANSWER = 1 << 24  # bytes
_MEETING = 10.0  # seconds to reach a server at the start of a run


@dataclasses.dataclass(frozen=True)
class RemoteReward:
    """A reward of the server at `url`. most_bytes: that it takes in one request. timeout_s: of one."""

    url: str
    name: str
    picks: FramePick
    most_bytes: int
    timeout_s: float

    def check(self, prompts: Sequence[str]) -> None:
        """Raises InputError for prompts that the reward cannot judge, and where the server does not answer."""
        body = json.dumps({"reward": self.name, "prompts": list(prompts)}).encode()
        try:
            _ask(self.url, "POST", "/check", self.timeout_s, [memoryview(body)])
        except RewardFailed as error:
            raise InputError(str(error)) from error

    def __call__(self, frames: Sequence[np.ndarray], prompts: Sequence[str]) -> np.ndarray:
        parts = wire.encode(wire.Request(self.name, frames, prompts, self.timeout_s))
        self.check_size(sum(part.nbytes for part in parts), f"{len(frames)} videos")
        answer = _ask(self.url, "POST", "/score", self.timeout_s, parts)
        try:
            return wire.scores_from_json(answer.get("scores"), len(frames))
        except ValueError as error:
            raise RewardFailed(f"{self.url}: {error}") from None

    def check_size(self, size: int, what: str) -> None:
        """Raises InputError unless the server takes a request of so many bytes."""
        if size > self.most_bytes:
            raise InputError(
                f"reward {self.name}: {what} are {size:,} bytes, {self.url} takes {self.most_bytes:,} in a request; "
                "lower batch or most_frames, or start the server with a higher --most-mib"
            )


def reach(url: str, name: str, timeout_s: float) -> RemoteReward:
    """The reward `name` of the server at `url`, which is asked for what it serves. Raises InputError where it does not
    answer or does not serve it.
    """
    start = "start it with `python -m lcv_jax.rewards serve`, or correct the url"
    try:
        answer = _ask(url, "GET", "/rewards", min(timeout_s, _MEETING))
    except RewardFailed as error:
        raise InputError(f"reward {name}: {error}; {start}") from error
    served, most = answer.get("rewards"), answer.get("most_bytes")
    if not isinstance(served, dict) or not is_number(most):
        raise InputError(f"reward {name}: {url} is no reward server of this version; {start}")
    if name not in served:
        raise InputError(f"reward {name}: {url} serves {', '.join(served)}; name one of them, or {start}")
    try:
        picks = FramePick(**served[name])
    except (TypeError, InputError):
        raise InputError(f"reward {name}: {url} is no reward server of this version; {start}") from None
    return RemoteReward(url, name, picks, most, timeout_s)


def _ask(url: str, method: str, path: str, timeout_s: float, parts: Sequence[memoryview] = ()) -> dict[str, Any]:
    """The JSON object that the server answers. Raises RewardFailed where there is none, or one of trouble that may
    pass, InputError where it refuses the request or the url is none.
    """
    connection = _connection(url, timeout_s)
    headers = {"Content-Type": wire.TYPE, "Content-Length": str(sum(part.nbytes for part in parts))}
    try:
        connection.request(method, path, body=iter(parts), headers=headers)
        response = connection.getresponse()
        status, text = response.status, response.read(_LONGEST_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        raise RewardFailed(f"reward server {url}: no answer ({error or type(error).__name__})") from error
    finally:
        connection.close()
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise RewardFailed(f"reward server {url}: answered {status} without a JSON object")
    if status == http.client.OK:
        return answer
    line = f"reward server {url}: {answer.get('error', status)}"
    raise InputError(line) if 400 <= status < 500 else RewardFailed(line)


def _connection(url: str, timeout_s: float) -> http.client.HTTPConnection:
    try:
        parts = urllib.parse.urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = None, None, None
    if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query:
        raise InputError(f"reward server {url!r}: expected a url such as http://10.0.0.7:8700")
    kind = http.client.HTTPConnection if parts.scheme == "http" else http.client.HTTPSConnection
    return kind(host, port, timeout=timeout_s)
