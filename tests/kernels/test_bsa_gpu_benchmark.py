"""The GPU benchmark without a GPU: what it measures, what a piece that fails leaves, and the table of it all."""

import json
import sys

import pytest

from benchmarks import bsa_gpu, bsa_gpu_measure, bsa_gpu_report

SMALL = ["--grids", "4,4,8", "--heads", "1", "--head-dim", "64", "--sparsities", "0.5", "--rounds", "1"]


@pytest.fixture
def command(tmp_path):
    """The command on a small size, in this process: command("--report")."""
    return lambda *options: bsa_gpu.main([*SMALL, "--out", str(tmp_path), *options])


def table(folder):
    return json.loads((folder / "bsa_gpu.json").read_text())


def test_measures_and_reports_without_a_gpu(command, tmp_path, capsys):
    for piece in ("rate", "128/random", "tune"):
        command("--measure", piece)
    command("--report")
    whole = table(tmp_path)
    cases = {row["case"].removeprefix("128 tokens, 50.00%, random, "): row for row in whole["rows"]}
    ways = {f"xla, {way}, selection {which}" for way in ("forward", "backward") for which in ("given", "included")}
    assert set(cases) == ways | {"selection alone"}
    for way in ways:
        assert cases[way]["minimum"] == 0.5
        assert cases[way]["figures"]["used_per_load"] in (1.0, 2.0)
        assert cases[way]["figures"]["of_matmul_rate"] > 0
    assert "The kernels are not measured: it needs a Hopper GPU, not 'cpu' (cpu)." in whole["notes"]


def test_pieces_run_by_themselves_and_are_not_repeated(command, tmp_path, capfd):
    command("--only", "rate")
    assert "flop_per_s" in (tmp_path / "bsa_gpu.jsonl").read_text()
    assert "A bf16 product of random numbers ran at" in table(tmp_path)["notes"]
    capfd.readouterr()
    command("--list")
    assert capfd.readouterr().out.splitlines() == [
        "rate  (finished)",
        "battery",
        "128/random",
        "128/correlated",
        "memcheck",
        "racecheck",
        "tune",
    ]


def test_what_hangs_is_ended_and_what_it_measured_is_kept(tmp_path, monkeypatch):
    settings = bsa_gpu.Settings(((4, 4, 8),), (0.5,), 1, 64, 1)
    log = bsa_gpu.Log(tmp_path / "x.jsonl", settings)
    log.add("rate", {"what": "matmul", "flop_per_s": 1e12})
    hang = "import subprocess, time; subprocess.run(['sleep', '60'])"
    monkeypatch.setitem(bsa_gpu.COMMANDS, "battery", ((sys.executable, "-c", hang), {}))
    bsa_gpu.run("battery", [], log, 0.5, str(tmp_path))
    monkeypatch.setitem(bsa_gpu.COMMANDS, "memcheck", (("no-such-program",), {}))
    bsa_gpu.run("memcheck", [], log, 1, str(tmp_path))
    monkeypatch.setitem(bsa_gpu.COMMANDS, "racecheck", ((sys.executable, "-c", "raise SystemExit(9)"), {}))
    bsa_gpu.run("racecheck", [], log, 60, str(tmp_path))
    assert not log.finished()
    notes = bsa_gpu_report.result("x", log.records(), "A card").notes
    assert "A bf16 product of random numbers ran at 1.0 TFLOP/s." in notes
    assert "battery: ended after its limit of 0.5 s." in notes
    assert "memcheck: no-such-program is not on the PATH." in notes
    assert "racecheck: ended with 9." in notes
    log.forget("battery")
    assert {record["piece"] for record in log.records()} == {"rate", "memcheck", "racecheck"}


def test_what_fails_is_a_record():
    def fail():
        raise RuntimeError("illegal address\nmore of it")

    assert bsa_gpu_measure.timed({"what": "sparse"}, fail, 1) == {
        "what": "sparse",
        "error": "RuntimeError: illegal address",
    }


SIZE = {"tokens": 168_960, "heads": 32, "head_dim": 128, "inputs": "random"}
PAIRS = 2640 * 165 * 32


def records(both):
    """As a GPU would give them, at the size of the goals. both: what came of the kernels' both ways."""
    case = SIZE | {"sparsity": 0.9375}
    sparse = case | {"what": "sparse", "implementation": "mosaic_gpu", "selection": "included"}
    return [
        {"what": "matmul", "flop_per_s": 800e12},
        SIZE | {"what": "dense", "way": "forward", "seconds": [0.8, 0.7, 0.9]},
        SIZE | {"what": "dense", "way": "both", "seconds": [3.0]},
        case | {"what": "pairs", "pairs": PAIRS, "share": 1 / 16, "used_per_load": 1.5},
        sparse | {"way": "forward", "seconds": [0.06]},
        sparse | {"way": "both"} | both,
    ]


def test_the_table_counts_products_and_compares_with_the_goals():
    forward, backward = bsa_gpu_report.result("x", records({"seconds": [0.36]}), "A card").rows
    assert forward.case == "168960 tokens, 93.75%, random, mosaic_gpu, forward, selection included"
    assert forward.ratio == pytest.approx(0.075)
    assert (forward.minimum, forward.met, backward.met) == (1 / 16, True, False)  # 13 and 7.3 times as fast
    flops = 4 * 168_960 * (168_960 / 16) * 128 * 32
    assert forward.figures["TFLOP_per_s"] == pytest.approx(flops / 0.06 / 1e12)
    assert forward.figures["of_matmul_rate"] == pytest.approx(flops / 0.06 / 800e12)
    assert backward.figures["ms"] == pytest.approx(300)
    assert backward.figures["TFLOP_per_s"] == pytest.approx(2.5 * flops / 0.3 / 1e12)


def test_the_table_leaves_out_what_failed_and_says_so():
    found = bsa_gpu_report.result("x", records({"error": "XlaRuntimeError: no"}), "A card")
    assert [row.case.split(", ")[4] for row in found.rows] == ["forward"]
    assert "FAILED: tokens 168960" in found.notes


def test_refuses_what_it_does_not_know(command, tmp_path, capsys):
    with pytest.raises(SystemExit):
        command("--grids", "4,6,8")
    assert "4,6,8: expected T,H,W that (4, 4, 4) divide" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="speed: no such piece, expected one of rate battery 128/random"):
        command("--only", "speed")
    command("--list")
    with pytest.raises(SystemExit, match="holds results of other settings"):
        command("--list", "--heads", "2")
