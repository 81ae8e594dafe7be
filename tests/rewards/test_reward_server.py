"""Rewards over HTTP: a server in a process of its own, what travels, what is refused, and servers that die or hang."""

import dataclasses
import http.client
import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.errors import InputError
from lcv_jax.rewards import gathering, wire
from lcv_jax.rewards.client import RemoteReward, reach
from lcv_jax.rewards.gathering import gather
from lcv_jax.rewards.in_turn import InTurn
from lcv_jax.rewards.opening import check_prompts, check_videos, open_rewards
from lcv_jax.rewards.protocol import FramePick, Opened, RewardFailed, RewardSettings
from lcv_jax.rewards.server import Server

VIDEO = np.zeros((5, 8, 8, 3), np.uint8)
PICKS = FramePick(rate=2.0, most=3)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(gathering, "_FIRST_WAIT", 0.001)


def served(*rewards: str) -> tuple[subprocess.Popen, str]:
    """A server process on a free port, and its url."""
    command = [
        sys.executable,
        "-m",
        "lcv_jax.rewards",
        "serve",
        "--rewards",
        *rewards,
        "--port",
        "0",
        "--most-mib",
        "1",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith(f"serving {', '.join(rewards)} at http://127.0.0.1:"), process.stderr.read()
    return process, line.split()[-1]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    process, url = served("toy-visual", "toy-text")
    yield url
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def shown() -> tuple[list[np.ndarray], list[str]]:
    """Two clips of the toy world, of different sizes and lengths, and their captions."""
    drawn = [toy.render(toy.sample([seed, 9], (1,)), seed, (32, 32 + 8 * seed), 5 + seed) for seed in (0, 1)]
    return [each.clip for each in drawn], [each.captions["zh"] for each in drawn]


def post(url: str, path: str, body: bytes, **headers: str) -> tuple[int, dict]:
    return asked(url, "POST", path, body, headers)


def asked(url: str, method: str, path: str, body: bytes | None = None, headers: dict | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


def body(**changes: object) -> bytes:
    """Of a good request of one black video, with changes."""
    return b"".join(wire.encode(dataclasses.replace(wire.Request("toy-visual", [VIDEO], ["a"], 5.0), **changes)))


@pytest.mark.smoke
def test_a_remote_reward_is_the_one_in_this_process(url, shown):
    names = ("toy-visual", "toy-text")
    here = gather(open_rewards([RewardSettings(name) for name in names]), *shown)
    there = gather(open_rewards([RewardSettings(name, url=url, batch=1) for name in names]), *shown)
    np.testing.assert_array_equal(there.scores, here.scores)
    assert np.isfinite(there.scores).all()


def test_prompts_are_checked_over_there(url):
    rewards = open_rewards([RewardSettings("toy-text", url=url)])
    check_prompts(rewards, ["A red circle moves up."])
    with pytest.raises(InputError, match=f"reward server {url}: caption 'a cat'"):
        check_prompts(rewards, ["a cat"])


def test_a_prompt_that_is_no_caption_costs_its_request_alone(url, shown, caplog):
    videos, prompts = shown
    reward = RewardSettings("toy-text", url=url, batch=1, retries=5)
    scored = gather(open_rewards([reward]), videos, [prompts[0], "a cat"])
    np.testing.assert_array_equal(np.isfinite(scored.scores), [[True, False]])
    assert "caption 'a cat'" in caplog.text


def test_what_is_not_served(url):
    with pytest.raises(InputError, match="serves toy-visual, toy-text; name one of them"):
        open_rewards([RewardSettings("toy-motion", url=url)])


def test_too_large_a_request_is_told_with_what_to_do(url, caplog):
    videos = np.zeros((2, 5, 256, 256, 3), np.uint8)
    scored = gather(open_rewards([RewardSettings("toy-visual", url=url)]), videos, ["a", "b"])
    assert scored.failed == {"toy-visual": 2}
    assert "lower batch or most_frames, or start the server with a higher --most-mib" in caplog.text
    status, answer = post(url, "/score", b"", **{"Content-Length": str(2 << 20)})
    assert (status, answer["error"].startswith("2,097,152 bytes, at most 1,048,576 are taken")) == (413, True)


@pytest.mark.parametrize(
    ("path", "sent", "status", "told"),
    [
        ("/score", b"", 400, "0 bytes, expected a request of at least 8"),
        ("/score", b"GET / HTTP", 400, "does not begin as a request does"),
        ("/score", b"LCVR\xff\xff\xff\xff", 400, "does not begin as a request does"),
        ("/score", b"LCVR\x02\0\0\0[]", 400, "expected a JSON object with reward, prompts, shapes, patience_s"),
        ("/score", b"LCVR\x01\0\0\0{", 400, "expected JSON"),
        ("/score", body() + b"x", 400, "961 bytes of videos, expected 960"),
        ("/score", body()[:-1], 400, "959 bytes of videos, expected 960"),
        ("/score", body(prompts=["a", "b"]), 400, "shapes: expected [frames, height, width] for each prompt"),
        ("/score", body(videos=[], prompts=[]), 400, "prompts: expected strings, at least one"),
        ("/score", body(videos=[VIDEO[:0]]), 400, "shapes: expected [frames, height, width]"),
        ("/score", body(patience_s=0), 400, "patience_s: expected seconds above 0"),
        ("/score", body(reward="best"), 404, "reward 'best': not served; expected toy-visual, toy-text"),
        ("/score", body(reward=3), 400, "reward, prompts: expected a name and a list"),
        ("/check", b"{}", 400, "expected a JSON object with reward, prompts"),
        ("/check", b"{" * 100_000, 400, "expected JSON"),
        ("/check", b'{"reward": "toy-text", "prompts": [1]}', 400, "prompts: expected strings"),
        ("/check", b'{"reward": "toy-text", "prompts": ["x"]}', 422, "caption 'x': not a sentence"),
        ("/other", b"", 404, "/other: expected GET /rewards, POST /check or POST /score"),
    ],
)
def test_bad_requests_get_a_line(url, path, sent, status, told):
    found, answer = post(url, path, sent)
    assert (found, list(answer)) == (status, ["error"])
    assert told in answer["error"]


def test_other_ways_to_ask_wrongly(url):
    assert asked(url, "GET", "/score") == (404, {"error": "/score: expected GET /rewards, POST /check or POST /score"})
    status, answer = post(url, "/score", b"", **{"Content-Length": "x"})
    assert (status, answer) == (411, {"error": "Content-Length: expected the number of bytes of the body"})


def test_a_body_that_breaks_off_leaves_the_server_well(url):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /score HTTP/1.0\r\nContent-Length: 999\r\n\r\nLCVR")
    assert asked(url, "GET", "/rewards")[0] == 200


def test_a_server_that_is_killed_drops_groups_and_refuses_the_next_run(shown, caplog):
    process, url = served("toy-visual")
    settings = RewardSettings("toy-visual", url=url, retries=1)
    rewards = open_rewards([settings, RewardSettings("toy-text")])
    assert np.isfinite(gather(rewards, *shown).scores).all()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    scored = gather(rewards, *shown)
    assert scored.failed == {"toy-visual": 2, "toy-text": 0}
    assert f"reward server {url}: no answer" in caplog.text
    with pytest.raises(InputError, match=r"no answer .*; start it with `python -m lcv_jax.rewards serve`, or correct"):
        open_rewards([settings])
    with pytest.raises(InputError, match="no answer"):
        check_prompts(rewards[:1], ["a"])


def test_a_server_that_hangs_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=r"no answer .*timed out"):
            reach(url, "toy-visual", 0.1)


class Odd(http.server.BaseHTTPRequestHandler):
    """Answers every request with what its server has."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.text)

    do_POST = do_GET

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[Callable[[bytes, int], str]]:
    """Makes a server that answers one thing; gives its url."""
    servers = []

    def make(text: bytes, status: int = 200) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Odd)
        server.text, server.status = text, status
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("text", "status", "told"),
    [
        (b"<html>", 200, "answered 200 without a JSON object"),
        (b"[1]", 200, "answered 200 without a JSON object"),
        (b"{}", 200, "is no reward server of this version"),
        (b'{"rewards": {"a": {"x": 1}}, "most_bytes": 9}', 200, "is no reward server of this version"),
        (b'{"rewards": {"a": {"rate": "fast"}}, "most_bytes": 9}', 200, "is no reward server of this version"),
        (b'{"error": "gone"}', 500, "gone"),
        (b'{"error": "never here"}', 404, "never here"),
    ],
)
def test_what_is_no_reward_server(odd, text, status, told):
    with pytest.raises(InputError, match=told):
        reach(odd(text, status), "a", 5.0)


def remote(url: str) -> RemoteReward:
    return RemoteReward(url, "a", PICKS, 1 << 20, 5.0)


@pytest.mark.parametrize("answer", [b"{}", b'{"scores": [1]}', b'{"scores": [1, "a"]}', b'{"scores": [1, true]}'])
def test_answers_that_are_no_scores_fail(odd, answer):
    reward = remote(odd(answer))
    with pytest.raises(RewardFailed, match="expected 2 scores"):
        reward([VIDEO, VIDEO], ["a", "b"])


def test_null_is_nan(odd):
    reward = remote(odd(b'{"scores": [null, 0.5]}'))
    np.testing.assert_array_equal(reward([VIDEO, VIDEO], ["a", "b"]), [np.nan, 0.5])


@pytest.mark.parametrize(
    "url", ["10.0.0.7:8700", "ftp://a:1", "http://", "http://a:port", "http://a:1/x", "http://a?b"]
)
def test_what_is_no_url(url):
    with pytest.raises(InputError, match="expected a url such as http"):
        reach(url, "a", 1.0)


@dataclasses.dataclass(frozen=True)
class Given:
    """A reward that calls a function."""

    name: str
    answer: Callable
    picks: FramePick = PICKS

    def check(self, prompts) -> None:
        pass

    def __call__(self, frames, prompts):
        return self.answer(frames, prompts)


@pytest.fixture
def serving() -> Iterator[Callable[..., str]]:
    """Serves functions as rewards from a thread of this process; gives the url."""
    servers = []

    def make(**answers: Callable) -> str:
        rewards = [InTurn(Given(name, answer), threading.Lock(), 5.0) for name, answer in answers.items()]
        server = Server(rewards, "127.0.0.1", 0, 1 << 20)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return server.url

    yield make
    for server in servers:
        server.shutdown()
        server.server_close()


def test_picks_are_told_to_those_who_ask(serving):
    assert reach(serving(a=lambda frames, prompts: np.zeros(1)), "a", 5.0).picks == PICKS


def test_scores_that_are_not_finite_arrive_as_nan(serving):
    url = serving(a=lambda frames, prompts: np.array([np.nan, np.inf, 1 / 3], np.float32))
    np.testing.assert_array_equal(reach(url, "a", 5.0)([VIDEO] * 3, ["a"] * 3), np.float32([np.nan, np.nan, 1 / 3]))


def test_a_model_that_fails_is_told_and_the_server_goes_on(serving, caplog):
    def fails(frames, prompts):
        raise RuntimeError("out of memory")

    url = serving(a=fails, b=lambda frames, prompts: np.zeros((2, 2)), c=lambda frames, prompts: np.ones(1))
    with pytest.raises(RewardFailed, match="RuntimeError: out of memory"):
        reach(url, "a", 5.0)([VIDEO], ["a"])
    with pytest.raises(RewardFailed, match=r"reward b: gave \(2, 2\), expected 1 scores"):
        reach(url, "b", 5.0)([VIDEO], ["a"])
    assert reach(url, "c", 5.0)([VIDEO], ["a"]) == [1.0]
    assert "/score failed" in caplog.text


def test_a_request_that_nobody_waits_for_any_more_is_not_computed(serving):
    begun, release, computed = threading.Event(), threading.Event(), []

    def slow(frames, prompts):
        computed.append(prompts)
        begun.set()
        release.wait(20)
        return np.zeros(len(prompts))

    url = serving(a=slow)
    first = threading.Thread(target=reach(url, "a", 20.0), args=([VIDEO], ["first"]))
    first.start()
    begun.wait(20)
    status, answer = post(url, "/score", body(reward="a", patience_s=0.05))
    release.set()
    first.join()
    assert (status, answer) == (503, {"error": "still busy with an earlier request after 0.05 s"})
    assert computed == [["first"]]


def test_an_address_that_is_taken():
    told = r"cannot be bound .*; choose another host or port"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match=told):
        Server([], "127.0.0.1", taken.getsockname()[1], 1)


def test_requests_that_a_server_would_not_take_are_told_before_a_run():
    """By what the reward looks at: three of the frames."""
    reward = RemoteReward("http://h:1", "a", FramePick(most=3), 3 * 8 * 8 * 3 * 4, 5.0)
    opened = [Opened(RewardSettings("a", url="http://h:1", batch=16), reward)]
    check_videos(opened, 4, (9, 8, 8), 15.0)
    with pytest.raises(InputError, match=r"5 videos of 8x8x9 are 2,880 bytes, .* takes 2,304 in a request; lower"):
        check_videos(opened, 5, (9, 8, 8), 15.0)
