"""A folder of raw videos to two steps of training, with the commands of the README."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from lcv_jax.checkpoint.default import default_checkpoint
from lcv_jax.data.shards import Dataset

ROOT = pathlib.Path(__file__).parents[3]


def command(folder: pathlib.Path, *args: str) -> str:
    """Runs one where the README's commands are run, but in a folder of its own; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *args], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_a_folder_to_training(tmp_path):
    command(tmp_path, "-m", "lcv_jax.data.toy", "--out", "raw", "--count", "10", "--size", "64x64", "--frames", "45")
    recipe, train = str(ROOT / "configs" / "toy_curation.py"), str(ROOT / "train.py")
    curate = [
        "-m",
        "lcv_jax.data.curation",
        "run",
        recipe,
        "--ingest.sources",
        "raw/captions.jsonl",
        "--out",
        "curated",
    ]
    told = command(tmp_path, *curate, "--select.0.smallest-group", "2").splitlines()
    (line,) = [line for line in told if line.startswith("pack toy: python train.py")]
    assert any(line.split()[:2] == ["embed", "10"] for line in told)
    mixture = json.loads((tmp_path / "curated" / "selections" / "toy.mixture.json").read_text())
    assert sum(mixture["weights"]) == pytest.approx(1, abs=1e-5)
    datasets = [Dataset(tmp_path / path) for path in mixture["paths"]]
    assert {form for dataset in datasets for form in dataset.forms} == {(4, 8, 8)}
    assert sum(len(dataset) for dataset in datasets) == 10
    assert all(dataset.index.made_of["selection"]["name"] == "toy" for dataset in datasets)
    options = ["--checkpoint", str(default_checkpoint()), "--steps", "2", "--samples.every", "0", "--out", "run"]
    data = line.split()[line.split().index("--data.paths") :]
    told = command(tmp_path, train, str(ROOT / "configs" / "toy_laptop.py"), *options, *data)
    assert "run: finished at step 2" in told
    assert (
        pathlib.Path(command(tmp_path, "-m", "lcv_jax.data.curation", "report", "curated").strip()).name
        == "report.html"
    )
