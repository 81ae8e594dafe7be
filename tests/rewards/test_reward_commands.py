"""The command line of the rewards: scores of a video, and mistakes in one line."""

import json
import socket

import pytest

from lcv_jax.data import toy
from lcv_jax.data.video_writer import write_video
from lcv_jax.rewards.__main__ import main


def test_scores_of_a_video(tmp_path, capsys):
    drawn = toy.render(toy.sample(3, (1,)), 3, (64, 64), 13)
    write_video(tmp_path / "a.mp4", drawn.clip, 15)
    asked = ["--video", str(tmp_path / "a.mp4"), "--prompt", drawn.captions["en"]]
    assert main(["score", *asked, "--rewards", "toy-text", "toy-motion"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert list(scores) == ["toy-text", "toy-motion"]
    assert scores["toy-text"] > 0.8


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["serve"], "rewards"),
        (["serve", "--rewards", "beauty"], "reward 'beauty': expected one of"),
        (["serve", "--rewards", "toy-text=x"], "reward toy-text: path x, but it has no weights"),
        (["score", "--video", "no.mp4", "--prompt", "a cat", "--rewards", "toy-text"], "caption 'a cat'"),
        (["score", "--video", "no.mp4", "--prompt", "a cat", "--rewards", "toy-visual"], "no.mp4"),
        (["score", "--video", "no.mp4", "--prompt", "", "--rewards", "a", "--url", "b"], "reward server 'b'"),
    ],
)
def test_mistakes_are_told_in_one_line(capsys, args, told):
    assert main(args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--rewards", "toy-visual", "--port", str(taken.getsockname()[1])]) == 2
    assert "cannot be bound" in capsys.readouterr().err
