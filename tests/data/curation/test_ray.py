"""Ray as the engine: the same rows and outcomes as of the pool of processes."""

import os
import pathlib

import numpy as np
import pytest

from curation_stages import Trial, library_of
from footage import scene
from lcv_jax.data.curation.advance import advance
from lcv_jax.data.curation.annotate import Annotation
from lcv_jax.data.curation.cuts import Lengths
from lcv_jax.data.curation.engines import EngineSettings
from lcv_jax.data.curation.ingest import Ingest
from lcv_jax.data.curation.pipeline import Curation, run
from lcv_jax.data.curation.scorers.camera import Camera
from lcv_jax.data.curation.scorers.motion import Motion
from lcv_jax.data.curation.scorers.pictures import Blur, PerceptualHash
from lcv_jax.data.curation.shots import Shots
from lcv_jax.data.curation.shown import read_clips
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

ITEMS = (
    "rows 3",
    "reject",
    "once raise",
    "raise",
    "rows 0",
    "SIGSEGV",
    "once SIGKILL",
    "once hang",
    "rows 40",
    "rows 1",
)


@pytest.mark.slow
def test_ray_is_started_and_ended_where_there_is_none(tmp_path):
    ray = pytest.importorskip("ray")
    stage = Trial(str(tmp_path), ("rows 1", "rows 2"))
    library = library_of(stage, tmp_path / "library")
    advance(stage, library, EngineSettings(kind="ray", workers=2))
    assert not ray.is_initialized()
    assert len(library.table("trial").rows()) == 3
    with pytest.raises(InputError, match=r"--engine.address 127.0.0.1:1: no cluster of Ray answers"):
        advance(stage, library, EngineSettings(kind="ray", address="127.0.0.1:1"), ("done",))


def test_ray_that_is_missing_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    stage = Trial(str(tmp_path), ("rows 1",))
    with pytest.raises(InputError, match=r"--engine.kind ray needs Ray .*pip install 'lcv_jax\[cluster\]'"):
        advance(stage, library_of(stage, tmp_path / "library"), EngineSettings(kind="ray"))


@pytest.fixture(scope="module")
def cluster():
    """Two workers' room on this machine."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(pathlib.Path(__file__).parents[2]), prepend=os.pathsep)
        ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield ray
        ray.shutdown()


def found(kind, root):
    (root / kind).mkdir()
    stage = Trial(str(root / kind), ITEMS)
    library = library_of(stage, root / kind / "library")
    advance(stage, library, EngineSettings(kind=kind, workers=2, timeout_s=6.0, max_failed=1.0))
    return stage, library.table("trial")


@pytest.mark.slow
def test_ray_and_local_end_alike(cluster, tmp_path):
    """Also what is killed, hangs or raises, in the same number of attempts."""
    (ours, local), (theirs, ray) = found("local", tmp_path), found("ray", tmp_path)
    assert local.key == ray.key

    def rows(table):
        return sorted((row["item"], row["number"]) for row in table.rows().to_pylist())

    def outcomes(table):
        return sorted((row["id"], row["status"], row["attempts"], row["rows"]) for row in table.outcomes().to_pylist())

    assert rows(local) == rows(ray)
    assert outcomes(local) == outcomes(ray)
    assert [ours.attempts(n) for n in range(len(ITEMS))] == [theirs.attempts(n) for n in range(len(ITEMS))]
    reasons = {row["id"]: row["reason"] for row in ray.outcomes().to_pylist()}
    assert reasons["item-1"] == "this one: cannot be used; expected another"
    assert reasons["item-3"].startswith("RuntimeError: broken in two lines (curation_stages.py:")
    assert reasons["item-5"].startswith("its actor died: ActorDiedError")


@pytest.mark.slow
def test_actors_are_replaced_and_a_stage_that_cannot_be_opened_ends(cluster, tmp_path):
    stage = Trial(str(tmp_path), ("rows 1",) * 4)
    library = library_of(stage, tmp_path / "library")
    advance(stage, library, EngineSettings(kind="ray", workers=1, items=2))
    assert len(set(library.table("trial").rows().column("process").to_pylist())) == 2
    closed = Trial(str(tmp_path), ("rows 1",) * 3, opening="reject")
    with pytest.raises(InputError, match="stage trial: this one: cannot be used"):
        advance(closed, library_of(closed, tmp_path / "other"), EngineSettings(kind="ray", workers=2))


@pytest.mark.slow
def test_all_stages_make_the_same_record_on_ray(cluster, tmp_path):
    """Bytes of clips included; in another order at most, which the record does not have."""
    for number in (1, 2):
        frames = np.concatenate([scene(10 * number + shot, 30, speed=3.0) for shot in range(2)])
        write_video(tmp_path / "videos" / f"{number}.mp4", frames, 25)
    (tmp_path / "videos" / "broken.mp4").write_bytes(b"no video")
    found = {}
    for kind in ("local", "ray"):
        config = Curation(
            ingest=Ingest(sources=(str(tmp_path / "videos"),)),
            shots=Shots(lengths=Lengths(least=0.5)),
            annotate=Annotation(scorers=(Blur(), Motion(), Camera(), PerceptualHash())),
            engine=EngineSettings(kind=kind, workers=2),
        )
        stages = ["ingest", "shots", "clips", "annotate", "caption", "embed", "balance"]
        library = run(config, str(tmp_path / kind), stages)
        outcomes = {
            name: sorted((row["id"], row["status"], row["reason"], row["rows"]) for row in table.outcomes().to_pylist())
            for name, table in library.tables.items()
        }
        found[kind] = read_clips(library).to_pylist(), outcomes
    assert len(found["local"][0]) == 4
    assert found["local"] == found["ray"]
