"""`python -m lcv_jax.data.curation`: exit codes, and mistakes in a line."""

import pathlib

import pytest

from footage import scene
from lcv_jax.data.curation.__main__ import main
from lcv_jax.data.video_writer import write_video

RECIPE = str(pathlib.Path(__file__).parents[3] / "configs" / "curation.py")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    write_video(folder / "videos" / "a.mp4", scene(1, 20, 48, 64), 25)
    (folder / "videos" / "b.mp4").write_bytes(b"")
    out = folder / "library"
    args = ["run", RECIPE, "--out", str(out), "--only", "ingest", "--engine.workers", "1"]
    assert main([*args, "--ingest.sources", str(folder / "videos")]) == 0
    return out


def test_status_and_inspect(library, capsys):
    assert main(["status", str(library)]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[1].split()[:4] == ["ingest", "1", "1", "0"]
    assert "  ingest, 1 rejected: is empty, N bytes" in told
    assert main(["inspect", str(library), "--stage", "ingest", "--where", "status = 'rejected'"]) == 0
    assert "b.mp4: is empty, 0 bytes\n1 rows" in capsys.readouterr().out


def test_run_goes_on_without_being_told_of_sources(library, capsys):
    args = ["run", RECIPE, "--out", str(library), "--only", "ingest", "--retry", "rejected", "failed"]
    assert main(args) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["ingest", "1", "1", "0"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["walk"], "'walk': no such command, expected one of run, status, inspect, report"),
        (["run"], "run: expected a recipe such as configs/curation.py"),
        (["run", "none.py", "--out", "x"], "none.py: no such recipe"),
        (["run", RECIPE], "--out"),
        (["run", RECIPE, "--out", "x", "--only", "walk"], "--only walk: no such stage"),
        (["run", RECIPE, "--out", "x", "--shots.nonsense", "1"], "nonsense"),
        (["run", RECIPE, "--out", "x", "--engine.workers", "0"], "workers=0: expected at least 1"),
        (["run", RECIPE, "--out", "x"], "--ingest.sources: none, expected folders, lists or files of videos"),
        (["run", RECIPE, "--out", "x", "--ingest.sources", "none"], "none: no such folder or file"),
        (["status", "none"], "none: is no library of curation"),
        (["inspect", "none", "--limit", "x"], "limit"),
    ],
)
def test_mistakes_end_with_a_line_and_status_2(tmp_path, monkeypatch, capsys, args, said):
    monkeypatch.chdir(tmp_path)
    assert main(args) == 2
    told = capsys.readouterr().err.strip()
    assert said in told.splitlines()[-1]
    assert told.splitlines()[-1].startswith("error: ")


def test_another_recipe_is_refused(tmp_path, capsys):
    (tmp_path / "other.py").write_text("def config():\n    return 3\n")
    assert main(["run", str(tmp_path / "other.py"), "--out", "x"]) == 2
    assert "config() gave int, expected a Curation" in capsys.readouterr().err


def test_usage(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("run configs/NAME.py", "status DIR", "inspect DIR", "--retry"))
