"""The annotation stage: what it computes of a clip, what it leaves null, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from lcv_jax.data.curation import records
from lcv_jax.data.curation.annotate import Annotation
from lcv_jax.data.curation.engines import EngineSettings
from lcv_jax.data.curation.library import Library
from lcv_jax.data.curation.pipeline import advance
from lcv_jax.data.curation.scorers.camera import Camera
from lcv_jax.data.curation.scorers.motion import Motion
from lcv_jax.data.curation.scorers.pictures import Blur, Exposure, PerceptualHash, Texture
from lcv_jax.data.curation.scorers.words import Text
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

LIGHT = (Blur(), Exposure(), Texture(), Motion(), Camera(), PerceptualHash())
"""Scorers that open within milliseconds."""


def library_of(root, clips, overlays=()) -> Library:
    """clips: frames by id."""
    library = Library(root)
    for name in ("shots", "clips"):
        library = library.with_stage(name, records.PARTS[name], {}, ())
    shots, cut = library.table("shots"), library.table("clips")
    null = dict.fromkeys(records.SHOTS.names)
    shots.write([null | {"clip_id": name, "overlay": dict(overlays).get(name)} for name in clips], [])
    rows = []
    for name, frames in clips.items():
        path = cut.files / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, frames, 15)
        (count, height, width), file = frames.shape[:3], str(path.relative_to(root))
        about = {"clip_id": name, "file": file, "width": width, "height": height, "fps": 15.0, "frames": count}
        rows.append(dict.fromkeys(records.CLIPS.names) | about)
    cut.write(rows, [])
    return library


def noise(count=9, height=64, width=96, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)


def worked(stage, library):
    worker = stage.open(library)
    return [row for task in stage.tasks(library) for row in worker(task.given)]


def test_rows_have_all_fields_and_nulls_where_nothing_was_asked(tmp_path):
    library = library_of(tmp_path, {"a": np.repeat(noise(1), 9, 0), "b": noise(1)})
    first, second = worked(Annotation(scorers=LIGHT), library)
    assert list(first) == records.SCORES.names
    unasked = {"text_area", "text_area_max", "text", "watermark", "watermark_method", "aesthetic"}
    assert {name for name, value in first.items() if value is None} == unasked
    assert len(first["phash"]) == 5
    flowing = {"flow", "flow_p90", "camera", "camera_rates", "camera_shake", "camera_inliers"}
    assert {name for name, value in second.items() if value is None} == unasked | flowing  # one frame does not move
    (alone,) = worked(Annotation(scorers=(Blur(),)), library_of(tmp_path / "x", {"a": np.repeat(noise(1), 9, 0)}))
    assert {name for name, value in alone.items() if value is not None} == {"clip_id", "blur", "blur_p10"}
    assert alone["blur"] == first["blur"]


def test_the_stage_runs_in_processes(tmp_path):
    library = library_of(tmp_path, {name: noise(seed=seed) for seed, name in enumerate("abc")})
    cut = next((tmp_path / library.table("clips").key / "files").glob("b.mp4"))
    cut.write_bytes(cut.read_bytes()[:500])
    stage = Annotation(scorers=LIGHT)
    library = library.with_stage(stage.name, stage.schema, stage.decides(), stage.after)
    advance(stage, library, EngineSettings(workers=1), False)
    table = library.table("annotate")
    assert sorted(table.rows().column("clip_id").to_pylist()) == ["a", "c"]
    outcomes = {row["id"]: (row["status"], row["reason"]) for row in table.outcomes().to_pylist()}
    assert [outcomes[name][0] for name in "abc"] == ["done", "rejected", "done"]
    assert "is not a readable video" in outcomes["b"][1]


def test_a_clip_with_fewer_frames_than_recorded_is_refused(tmp_path):
    library = library_of(tmp_path, {"a": noise(8)})
    stage = Annotation(scorers=(Blur(),))
    (task,) = stage.tasks(library)
    with pytest.raises(InputError, match=r"a.mp4: holds no frame 8, and its record says 20; cut it again"):
        stage.open(library)({**task.given, "frames": 20})


def test_the_longest_clips_begin_first_and_overlays_come_along(tmp_path):
    library = library_of(tmp_path, {"a": noise(2), "b": noise(4)}, {"b": [0.1, 0.2, 0.3, 0.4]})
    tasks = {task.id: task for task in Annotation().tasks(library)}
    assert tasks["b"].size == 2 * tasks["a"].size
    assert tasks["a"].given["overlay"] is None
    assert tasks["b"].given["overlay"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_what_decides_rows():
    stage = Annotation(scorers=(Blur(),))
    assert stage.decides() == {"scorers": {"Blur": {"lines": 720}}, "stills": {"count": 8, "lines": 720}}
    assert Annotation(scorers=(Blur(), Motion())).decides()["flow"]["width"] == 320
    assert Annotation(scorers=(Text(),)).decides()["words"]["score"] == 0.6
    # Of views that no scorer needs, settings change nothing.
    assert dataclasses.replace(stage, flow=dataclasses.replace(stage.flow, width=128)).decides() == stage.decides()
    assert Annotation(scorers=(Blur(360),)).decides() != stage.decides()


def test_refusals(monkeypatch):
    with pytest.raises(InputError, match=r"--annotate\.scorers: none, expected some"):
        Annotation(scorers=()).check()
    with pytest.raises(InputError, match="blur is given by 2 of them"):
        Annotation(scorers=(Blur(), Blur(360))).check()
    Annotation(scorers=LIGHT).check()
    monkeypatch.setitem(__import__("sys").modules, "rapidocr", None)
    Annotation(scorers=LIGHT).check()
    with pytest.raises(InputError, match=r"need rapidocr .*pip install 'lcv_jax\[curate\]'"):
        Annotation().check()
