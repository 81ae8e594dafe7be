"""Mistakes of the command line are one line and exit code 2, whichever command they are made with."""

import dataclasses
from typing import Literal

import pytest

from lcv_jax.checkpoint import __main__ as checkpoint
from lcv_jax.command_line import parse, status
from lcv_jax.data import cache
from lcv_jax.data.toy import __main__ as toy
from lcv_jax.errors import InputError
from lcv_jax.eval import __main__ as evaluation
from lcv_jax.parallel import __main__ as parallel
from lcv_jax.sample import cli as sample
from lcv_jax.train import cli as train


@dataclasses.dataclass(frozen=True)
class Form:
    """What is asked for."""

    name: str
    """Of it."""
    kind: Literal["one", "other"] = "one"
    """Of which kind."""


def test_what_parses_is_the_dataclass():
    assert parse(Form, ["--name", "a", "--kind", "other"]) == Form("a", "other")


@pytest.mark.parametrize(
    ("args", "match"),
    [
        (["--name", "a", "--kind", "none"], "'none'.*one.*other"),
        ([], "--name"),
        (["--name", "a", "--colour", "red"], "--colour"),
    ],
)
def test_what_does_not_parse_is_one_line(args, match, capsys):
    with pytest.raises(InputError, match=match) as error:
        parse(Form, args)
    assert "\n" not in str(error.value)
    assert capsys.readouterr() == ("", "")


def test_help_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(Form, ["--help"])
    assert "Of which kind." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "args", "told"),
    [
        (sample.main, ["t2v", "--prompt", "a", "--out", "x.mp4", "--checkpoint", "c", "--weights", "int4"], "int4"),
        (evaluation.main, ["--checkpoint", "c", "--out", "x.json", "--tasks", "v2t"], "v2t"),
        (cache.main, ["--source", "s", "--checkpoint", "c", "--out", "x", "--posterior", "mean"], "mean"),
        (toy.main, ["--out", "x", "--count", "many"], "many"),
        (checkpoint.main, ["import", "a", "b", "--dtype", "int4"], "int4"),
        (parallel.main, ["plan", "--task", "t2v-480p"], "--device"),
        (train.main, ["configs/toy_laptop.py", "--out", "x", "--steps", "many"], "many"),
    ],
    ids=["sample", "eval", "cache", "toy", "checkpoint", "parallel", "train"],
)
def test_every_command_answers_in_one_line(main, args, told, capsys, request, monkeypatch):
    monkeypatch.chdir(request.config.rootpath)
    try:
        code = main(args)
    except SystemExit as end:
        code = end.code
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert told in lines[0]


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [
        (None, 0, ""),
        (3, 3, ""),
        (InputError("a: is\nwrong"), 2, "error: a: is wrong\n"),
        (KeyboardInterrupt(), 130, "error: interrupted; nothing was kept\n"),
    ],
)
def test_exit_status(capsys, outcome, code, told):
    def command():
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    assert status(command, "nothing was kept") == code
    assert capsys.readouterr().err == told
