"""The benchmarks' shared part: rounds are paired, ratios are medians, a result keeps what it is given."""

import dataclasses
import json

import pytest

import training
from benchmarks import bsa_selection, common, distilled, full_import
from lcv_jax.checkpoint import convert
from lcv_jax.sample.options import Options


def test_alternate_calls_every_candidate_once_a_round_in_changing_order():
    calls = []
    times = common.alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert [len(values) for values in times.values()] == [3, 3]


def test_alternate_refuses_no_rounds():
    with pytest.raises(ValueError, match="rounds=0: at least one round"):
        common.alternate({"a": lambda: None}, rounds=0)


def test_ratio_is_the_median_of_paired_rounds():
    times = {"ours": [1.0, 9.0, 4.0], "reference": [2.0, 3.0, 4.0]}
    assert common.ratio(times, "ours", "reference") == 1.0  # of 0.5, 3 and 1
    assert common.seconds(times) == {"ours_s": 4.0, "reference_s": 3.0}


def test_write_keeps_rows_environment_and_missed_goals(tmp_path, capsys):
    rows = (
        common.Row("small", ratio=0.5, minimum=0.25, goal=1.0, figures={"ours_s": 0.125}),
        common.Row("large", ratio=2.0, goal=1.0, figures={"peak_mib": 3}),
        common.Row("reported only", ratio=1.5),
    )
    path = common.write(common.Result("demo", "A table", over="ours / theirs", rows=rows, notes="Noted."), tmp_path)
    record = json.loads(path.read_text())
    assert [row["met"] for row in record["rows"]] == [True, False, None]
    assert {"cpu", "cores", "backend", "devices", "python", "system", "versions", "commit"} == set(
        record["environment"]
    )
    table = path.with_suffix(".md").read_text()
    assert "| large | 2 |  | 1 | no |  | 3 |" in table
    assert "Noted." in table
    assert capsys.readouterr().out.strip() == table.strip()


def test_write_refuses_a_ratio_that_is_no_number(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        common.write(common.Result("bad", "A table", over="x", rows=(common.Row("a", float("nan")),)), tmp_path)
    assert not (tmp_path / "bad.json").exists()


def test_the_selections_benchmark_runs_at_any_size(tmp_path):
    bsa_selection.main(["--blocks", "40", "--rounds", "1"], tmp_path)
    (row,) = json.loads((tmp_path / "bsa_selection.json").read_text())["rows"]
    assert row["case"] == "40 x 40 blocks, heads: 1, 2 kept"
    assert set(row["figures"]) == {"search_s", "sort_s", "top_k_s", "scores_s", "search_over_top_k"}


def test_a_sparse_checkpoint_is_imported_and_its_first_blocks_restored(tmp_path):
    config = dataclasses.replace(training.TINY, depth=3)
    tensors = full_import.write_sparse(tmp_path / "dit", config, 50_000)
    assert len(list((tmp_path / "dit").glob("*.safetensors"))) > 2
    convert.import_checkpoint(tmp_path / "dit", tmp_path / "ours")
    found = full_import.restore(tmp_path / "ours", "fsdp=1", 2)
    whole = sum(info.nbytes for info in tensors.values()) // 2
    assert whole / 2 < found["bytes"] == found["device"] < whole


def test_restoring_finds_a_value_that_is_another(tmp_path):
    full_import.write_sparse(tmp_path / "dit", training.TINY, 10**9)
    (file,) = (tmp_path / "dit").glob("*.safetensors")
    with file.open("r+b") as stored:
        stored.seek(-4, 2)
        stored.write(bytes(4))
    convert.import_checkpoint(tmp_path / "dit", tmp_path / "ours")
    with pytest.raises(AssertionError, match="y_embedder"):
        full_import.restore(tmp_path / "ours", "fsdp=1", training.TINY.depth)


def test_the_distilled_benchmark_counts_calls(tmp_path):
    """Of one step: two rows with guidance, one without."""
    small = {"size": (32, 32), "frames": 1, "tokens": 8, "clips": 1, "rounds": 1}
    distilled.main(**small, steps=1, dtype="float32", out=tmp_path)
    rows = json.loads((tmp_path / "distilled.json").read_text())["rows"]
    assert [row["case"] for row in rows] == ["text and latents", "whole clips"]
    for row in rows:
        assert row["minimum"] == 0.5
        assert set(row["figures"]) == {"distilled_calls", "guided_calls", "distilled_s", "guided_s"}
    assert (distilled.calls(Options(distilled=True)), distilled.calls(Options())) == (16, 100)
