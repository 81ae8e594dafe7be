"""Models of servers: what they are sent, and what becomes of all that they may answer."""

import json

import numpy as np
import pytest

from chat_server import Reply, busy, chosen, serving
from lcv_jax.data.curation.chat import Endpoint
from lcv_jax.data.curation.cinematography import FIELDS, VALUES
from lcv_jax.data.curation.speakers import ModelFailed, ModelSettings, Question, check_speaker, open_speaker
from lcv_jax.errors import InputError

KEY = "sk-very-secret-0123456789"
QUESTION = Question("What is this?")


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("TEST_MODEL_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")


def settings(url: str, **how) -> ModelSettings:
    return ModelSettings(url=url, name="seer-7b", **({"timeout_s": 10.0, "retries": 2} | how))


def asked_of(answer, question=QUESTION, **how):
    """(the answer or what was raised, the server with what it was asked)."""
    with serving(answer) as server:
        try:
            return Endpoint(settings(server.url, **how))(question), server
        except (InputError, ModelFailed) as error:
            return error, server


def test_the_request_holds_frames_text_and_schema():
    frames = [np.full((48, 80, 3), grey, np.uint8) for grey in (10, 120, 240)]
    answer, server = asked_of(
        lambda _: "yes", Question("How filmed?", frames, FIELDS), key_variable="TEST_MODEL_KEY", most_tokens=77
    )
    assert answer == "yes"
    (asked,) = server.asked
    assert asked.body["model"] == "seer-7b"
    assert asked.body["max_tokens"] == 77
    assert asked.body["temperature"] == 0
    assert asked.text == "How filmed?"
    assert [frame.shape for frame in asked.frames()] == 3 * [(48, 80, 3)]
    np.testing.assert_allclose([frame.mean() for frame in asked.frames()], [10, 120, 240], atol=1)
    assert asked.fields == {name: [*values, "unclear"] for name, values in VALUES.items()}
    assert asked.headers["authorization"] == f"Bearer {KEY}"


def test_no_key_is_sent_that_is_not_named():
    _, server = asked_of(lambda _: "yes", temperature=None)
    assert server.asked[0].headers["authorization"] == "Bearer none"
    assert "sk-of-somebody-else" not in json.dumps(server.asked[0].headers)
    assert "response_format" not in server.asked[0].body
    assert "temperature" not in server.asked[0].body


def test_a_busy_server_is_asked_again():
    replies = [busy(), busy(503), "yes"]
    answer, server = asked_of(lambda _: replies.pop(0))
    assert answer == "yes"
    assert len(server.asked) == 3


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_on_is_a_failure(status):
    error, server = asked_of(lambda _: busy(status, "out of memory"))
    assert isinstance(error, ModelFailed)
    assert "seer-7b" in str(error)
    assert f"{status} - out of memory" in str(error)
    assert len(server.asked) == 3


def test_a_slow_server_is_a_failure_and_a_slower_one_than_usual_is_not():
    error, server = asked_of(lambda _: Reply(body=chosen("late"), seconds=1.0), timeout_s=0.2, retries=0)
    assert isinstance(error, ModelFailed)
    assert "timed out" in str(error)
    assert len(server.asked) == 1
    answer, _ = asked_of(lambda _: Reply(body=chosen("late"), seconds=0.3))
    assert answer == "late"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body=b'{"choices": [{"mess'), "no JSON"),
        (Reply(body=b"<html>gateway</html>", headers={"Content-Type": "text/html"}), "without a text"),
        (Reply(body={"object": "chat.completion"}), "without a text"),
        (Reply(body={"choices": []}), "without a text"),
        (Reply(body=chosen(None)), "without a text"),
        (Reply(body=chosen(" \n")), "without a text"),
        (Reply(body=chosen({"text": "a"})), "without a text"),
        (Reply(body=chosen("A dog", "length")), "longer than 512 tokens; raise most_tokens"),
        (Reply(400, {"error": {"message": "max_tokens is not known"}}), "400 - max_tokens is not known"),
        (Reply(404, {"error": {"message": "no model seer-7b"}}), "404 - no model seer-7b"),
    ],
)
def test_answers_that_are_none_are_failures(reply, said):
    error, server = asked_of(lambda _: reply)
    assert isinstance(error, ModelFailed)
    assert said in str(error)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(body=chosen(None, refusal="I cannot help with that")), "refused to answer .I cannot help with that"),
        (Reply(body=chosen("", "content_filter")), "refused to answer .content filter"),
        (Reply(400, {"error": {"message": "policy", "code": "content_filter"}}), "policy: the question is refused"),
        (Reply(400, {"error": {"message": "bad", "code": "data_inspection_failed"}}), "bad: the question is refused"),
    ],
)
def test_refusals_are_final(reply, said):
    with serving(lambda _: reply) as server, pytest.raises(InputError, match=said):
        Endpoint(settings(server.url))(QUESTION)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401, {"error": {"message": f"Incorrect API key provided: {KEY}."}}),
        busy(500, f"no quota for {KEY}"),
        Reply(400, {"error": {"message": KEY, "code": "content_filter"}}),
        Reply(body=chosen(None, refusal=f"not for {KEY}")),
        Reply(body=f'{{"{KEY}'.encode()),
    ],
)
def test_a_key_that_the_server_repeats_is_not_told(reply):
    error, server = asked_of(lambda _: reply, key_variable="TEST_MODEL_KEY")
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert "seer-7b" in str(error)
    assert KEY not in f"{error} {error!r} {error.__cause__}"


def test_keys_and_places_are_no_part_of_settings():
    told = settings("http://there:8000/v1", key_variable="TEST_MODEL_KEY")
    assert told.decides() == {"name": "seer-7b", "temperature": 0.0}
    assert KEY not in repr(told)


def test_a_server_is_met_before_a_run():
    with serving(lambda _: "yes") as server:
        check_speaker(settings(server.url))
    with serving(lambda _: "yes", Reply(404, {"error": "no list here"})) as server:
        check_speaker(settings(server.url))
    wrong = Reply(401, {"error": {"message": f"no such key {KEY}"}})
    with serving(lambda _: "yes", wrong) as server, pytest.raises(InputError, match="check key_variable") as caught:
        check_speaker(settings(server.url, key_variable="TEST_MODEL_KEY"))
    assert KEY not in str(caught.value)
    with pytest.raises(InputError, match=r"seer-7b at .*refused.*; start the server, or correct the url"):
        check_speaker(settings(server.url, timeout_s=1.0))


def test_a_key_that_is_missing_is_told_without_its_name(monkeypatch):
    monkeypatch.delenv("TEST_MODEL_KEY")
    with pytest.raises(InputError, match="names an environment variable that is not set") as caught:
        open_speaker(settings("http://localhost:1/v1", key_variable="TEST_MODEL_KEY"))
    assert "TEST_MODEL_KEY" not in str(caught.value)


def test_no_model_is_none():
    check_speaker(ModelSettings())
    assert open_speaker(ModelSettings()) is None
    assert ModelSettings().decides() is None


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"url": "localhost:8000"}, "model, url: expected one such as"),
        ({"url": "ftp://localhost/v1"}, "model, url: expected one such as"),
        ({"url": "http://[::1/v1"}, "model, url: expected one such as"),
        ({"url": f"http://me:{KEY}@there/v1"}, "has a user, a password or a query"),
        ({"url": f"http://there/v1?key={KEY}"}, "has a user, a password or a query"),
        ({"url": "http://there/v1", "name": None}, "expected the name by which that server knows"),
        ({"url": "http://there/v1", "path": "/models/a"}, "expected one of them"),
        ({"key_variable": "A"}, "key_variable: is of servers"),
        ({"url": "http://there/v1", "key_variable": KEY}, "not a key itself"),
        ({"timeout_s": 0}, "timeout_s=0: expected seconds above 0"),
        ({"retries": -1}, "retries=-1: expected at least 0"),
        ({"most_tokens": 0}, "most_tokens=0: expected at least 1"),
        ({"temperature": -1.0}, "temperature=-1.0: expected at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(how, said):
    with pytest.raises(InputError, match=said) as caught:
        ModelSettings(**({"name": "seer-7b"} | how))
    assert KEY not in str(caught.value)
