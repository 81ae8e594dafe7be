"""Selections become datasets, once, that tell where they come from and are weighted as selected."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from lcv_jax.data.curation import records
from lcv_jax.data.curation.balance import Balance, read_balance
from lcv_jax.data.curation.packing import Packing
from lcv_jax.data.curation.selection import Selection, select
from lcv_jax.data.shards import INDEX, Dataset
from lcv_jax.data.toy import render, sample
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from libraries import clip, library

STAGE = Selection("stage", "blur > 100", smallest_group=1, size="32x32", frames=(1, 5))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight clips of two subjects, two of them short, and one that is no video."""
    root = tmp_path_factory.mktemp("library")
    (root / "clips").mkdir()
    rows = []
    for number in range(9):
        name = f"{number:03d}"
        frames = render(sample(number), number, (32, 32), 3 if number in (6, 7) else 5)[0]
        write_video(root / "clips" / f"{name}.mp4", frames, 15)
        vector = np.eye(8)[int(number in (6, 7))].tolist()
        rows.append(clip(name, f"clip {number}", embedding=vector, seconds=len(frames) / 15))
    (root / "clips" / "008.mp4").write_bytes(b"no video")
    found = library(root, rows)
    Balance(clips_each=4, alpha=1).run(found)
    select(found, records.clip_records(found, read_balance(found)), STAGE)
    return found


@pytest.fixture(scope="module")
def packing(checkpoint_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed")
    return Packing(checkpoint=str(checkpoint_dir), out=str(out), max_text_tokens=16, shard_records=4)


@pytest.fixture(scope="module")
def mixture(made, packing):
    packing.run(made, STAGE)
    return json.loads((made.root / "selections" / "stage.mixture.json").read_text())


def test_datasets_hold_the_clips_of_their_groups(made, mixture, packing):
    datasets = [Dataset(path) for path in mixture["paths"]]
    keys = [[key for shard in dataset.index.shards for key in shard.keys] for dataset in datasets]
    assert keys == [[f"{n:03d}.mp4" for n in range(6)], ["006.mp4", "007.mp4"]]
    assert datasets[0][3].captions == {"en-basic": "clip 3"}
    assert [dataset.forms[0] for dataset in datasets] == [(2, 4, 4), (1, 4, 4)]
    assert all(path.startswith(f"{packing.out}/datasets/stage/") for path in mixture["paths"])


def test_weights_are_shares_of_tokens(made, mixture):
    """Clusters of 7 and 2 with alpha 1 weigh the same: one clip 9 / 14, one of the others 9 / 4. Six of the first were
    encoded, of 2 latent frames, two of the others of 1."""
    shares = np.array([6 * 9 / 14 * 2, 2 * 9 / 4 * 1])
    np.testing.assert_allclose(mixture["weights"], shares / shares.sum(), atol=1e-6)


def test_the_manifest_tells_where_from(made, mixture):
    index = Dataset(mixture["paths"][0]).index
    assert index.made_of["selection"]["where"] == "blur > 100"
    assert index.made_of["tables"]["embed"] == made.table("embed").key
    assert index.made_of["group"]["clips"] == 7
    assert [key for shard in index.shards for key, _ in shard.skipped] == ["008.mp4"]


def test_what_is_packed_is_not_packed_again(made, mixture, packing, capsys):
    files = sorted(pathlib.Path(packing.out).rglob("*.arrayrecord"))
    before = [file.stat().st_mtime_ns for file in files]
    indices = [pathlib.Path(path, INDEX).read_bytes() for path in mixture["paths"]]
    packing.run(made, STAGE)
    assert [file.stat().st_mtime_ns for file in files] == before
    assert [pathlib.Path(path, INDEX).read_bytes() for path in mixture["paths"]] == indices
    out = capsys.readouterr().out
    paths, weights = " ".join(mixture["paths"]), " ".join(map(str, mixture["weights"]))
    assert f"python train.py RECIPE --data.paths {paths} --data.weights {weights}\n" in out


def test_without_a_checkpoint_only_lists_are_there(made, capsys):
    Packing().run(made, STAGE)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("pack stage: no --pack.checkpoint, so nothing is encoded; lists: ")
    assert all(pathlib.Path(path).is_file() for path in line.partition("lists: ")[2].split(", "))


def test_a_selection_that_has_changed_is_told(made, packing):
    with pytest.raises(InputError, match="selection stage: its settings have changed since; run select"):
        packing.run(made, dataclasses.replace(STAGE, where="blur > 10"))
