"""The corpus that curation is measured with says the truth, and its measures count as they should."""

import cv2
import numpy as np
import pytest

from benchmarks import curation_corpus, curation_measures
from benchmarks.curation_corpus import Change, Maker, Video, read_truth, write_corpus
from benchmarks.curation_pictures import Look, path, views
from lcv_jax.data.video import read_video

SIZE = (160, 90)


def moved(before, after):
    """By how much the middle of a picture has moved to the right and down, pixels."""
    small = before[25:65, 45:115]
    at = cv2.minMaxLoc(cv2.matchTemplate(after, small, cv2.TM_CCOEFF_NORMED))[3]
    return at[0] - 45, at[1] - 25


@pytest.mark.parametrize(
    ("move", "right", "down"),
    [("pan_left", 1, 0), ("pan_right", -1, 0), ("tilt_up", 0, 1), ("tilt_down", 0, -1), ("static", 0, 0)],
)
def test_what_is_seen_moves_against_the_camera(move, right, down):
    rng = np.random.default_rng(1)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (300, 500, 3), np.uint8), (0, 0), 2)
    first, last = (list(views(ground, path(rng, 13, 24.0, move, 0.2, 0.0), SIZE))[n] for n in (0, -1))
    across, below = moved(first, last)
    assert across == pytest.approx(right * 0.2 * 0.5 * SIZE[0], abs=2)
    assert below == pytest.approx(down * 0.2 * 0.5 * SIZE[0], abs=2)


def test_zooming_in_makes_things_larger():
    ground = np.zeros((300, 500, 3), np.uint8)
    cv2.circle(ground, (250, 150), 20, (255, 255, 255), -1)
    rng = np.random.default_rng(0)
    frames = list(views(ground, path(rng, 25, 24.0, "zoom_in", 0.4, 0.0), SIZE))
    assert frames[-1].mean() / frames[0].mean() == pytest.approx(np.exp(2 * 0.4), rel=0.05)


@pytest.mark.parametrize("joint", ["hard", "dissolve", "fade"])
def test_changes_are_where_the_truth_says(joint):
    looks = [Look(SIZE, 24, count, ground=ground) for ground, count in ((3, 60), (9, 70))]
    make = Maker(np.random.default_rng(2), 0, None)
    video, made = curation_corpus._joined("x", looks, [joint], make, False)
    frames = np.stack(list(made)).astype(int)
    assert len(frames) == video.frames
    (change,) = video.changes
    steps = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    if joint == "hard":
        assert (change.start, change.end) == (60, 60)
        assert int(steps.argmax()) + 1 == 60
        return
    # Something changes in every step of the span, and only a camera's noise outside of it.
    quiet = np.concatenate([steps[: change.start - 1], steps[change.end :]])
    inside = np.sort(steps[change.start : change.end - 1])
    assert inside[joint == "fade" :].min() > 1.2 * quiet.max()  # a fade stays black once
    if joint == "fade":
        levels = frames.mean((1, 2, 3))
        assert change.start < int(levels.argmin()) < change.end
        assert levels.min() == 0


def test_a_corpus_is_written_once_and_read_back(tmp_path):
    made = write_corpus(tmp_path, ["bordered", "copied"], most=2)
    assert read_truth(tmp_path) == made
    names = ["bordered-00-letter", "bordered-01-pillar", "copied-00", "copied-00-same"]
    assert [video.name for video in made] == names
    for video in made[:2]:
        frames = read_video(tmp_path / "videos" / f"{video.name}.mp4").frames
        assert frames.shape[1:3] == video.size[::-1]
        assert len(frames) == video.frames
        x, y, width, height = video.crop
        outside = np.ones(frames.shape[1:3], bool)
        outside[y : y + height, x : x + width] = False
        assert frames[:, outside].mean() < 8
        assert frames[:, ~outside].mean() > 40
    files = [(tmp_path / "videos" / f"{name}.mp4") for name in names]
    assert files[2].read_bytes() == files[3].read_bytes()
    before = [file.stat().st_mtime_ns for file in files]
    write_corpus(tmp_path, ["bordered", "copied"], most=2)
    assert [file.stat().st_mtime_ns for file in files] == before


def clip(start, end, cut_in="hard", **more):
    return {"start_frame": start, "end_frame": end, "cut_in": cut_in, "crop": [0, 0, 160, 90]} | more


def video(name="a", **more):
    return Video(**{"name": name, "group": "g", "size": SIZE, "fps": 24, "frames": 100, "crop": (0, 0, *SIZE)} | more)


def counted(one):
    return one.right, one.found, one.true


def test_cuts_are_counted():
    truth = video(changes=(Change("hard", 40, 40), Change("dissolve", 60, 70), Change("hard", 90, 90)))
    rows = {"a": [clip(0, 20, "edge"), clip(20, 41), clip(41, 58), clip(72, 100)]}  # 20 is made up, 90 is missed
    hard, soft, clean, kept = curation_measures.cuts(rows | {"c": []}, [truth, video("c")])
    assert counted(hard) == (1, 2, 2)
    assert counted(soft) == (1, 1, 1)
    assert counted(clean) == (3, 4, 3)
    assert counted(kept) == (1, 1, 2)
    assert hard.wrong == ("+a@20", "-a@90")
    assert (hard.precision, hard.recall, hard.f1) == (0.5, 0.5, 0.5)
    # Parts of a long shot are no cut.
    rows = {"b": [clip(0, 50, "edge"), clip(50, 100, "split")]}
    assert [counted(one)[:2] for one in curation_measures.cuts(rows, [video("b")])] == [(0, 0), (0, 0), (1, 1), (1, 1)]


def test_borders_flags_and_moves_are_counted():
    videos = [video("a", crop=(0, 10, 160, 70)), video("b"), video("c", text="en")]
    rows = {
        "a": [clip(0, 9, crop=[0, 12, 160, 66], text_area=0.0)],
        "b": [clip(0, 9, crop=[0, 3, 160, 87], text_area=0.1)],
        "c": [clip(0, 9, text_area=0.1), clip(9, 20, text_area=0.0)],
    }
    inside, without = curation_measures.borders(rows, videos)
    assert counted(inside) == (1, 1, 1)
    assert counted(without) == (1, 2, 2)
    assert without.wrong == ("+b: [0, 3, 160, 87], is [0, 0, 160, 90]",)
    whole, english = curation_measures.flagged(
        rows, videos, "text", lambda row: row["text_area"] > 0.01, lambda one: one.text or ""
    )
    assert counted(whole) == (1, 2, 2)
    assert counted(english) == (1, 1, 2)
    moves = [video("p", camera="pan_left"), video("q", camera="static"), video("r")]
    rows = {"p": [clip(0, 9, camera=["pan_left"])], "q": [clip(0, 9, camera=["pan_left", "shake"])], "r": []}
    whole, *labels = curation_measures.camera(rows, moves)
    assert counted(whole) == (1, 2, 2)
    assert {one.case: counted(one) for one in labels if one.found or one.true} == {
        "camera, pan_left": (1, 2, 1),
        "camera, static": (0, 0, 1),
        "camera, shake": (0, 1, 0),
    }
