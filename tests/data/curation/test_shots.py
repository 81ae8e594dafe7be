"""Shots: arithmetic by hand, and generated footage whose cuts are known."""

import pathlib
from fractions import Fraction

import numpy as np
import pytest
from safetensors.numpy import save_file

from footage import opened_library, scene, through_black, work_through
from lcv_jax.data.curation import records
from lcv_jax.data.curation.cuts import Lengths, Shot, shots, united
from lcv_jax.data.curation.detectors import Adaptive, Content, Fades, Seen, Transition, TransNet, fades_around, scored
from lcv_jax.data.curation.ingest import Ingest
from lcv_jax.data.curation.scan import scan
from lcv_jax.data.curation.shots import Shots, clip_id
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError


def times(count, fps=10):
    return np.arange(count + 1) / fps


def hard(*cuts):
    return [Transition(cut, cut) for cut in cuts]


def test_what_meets_is_one():
    found = united([Transition(50, 60), *hard(10, 11, 30), Transition(58, 70), *hard(71, 73, 30)])
    assert found == [Transition(10, 11), Transition(30, 30), Transition(50, 71), Transition(73, 73)]
    assert united([]) == []


def test_shots_lie_between_transitions():
    lengths = Lengths(least=1.0, most=10.0, trim_hard=1, trim_gradual=2)
    found = shots([*hard(20), Transition(40, 50)], times(70), lengths)
    assert found == [
        Shot(0, 0, 19, "edge", "hard"),
        Shot(1, 21, 38, "hard", "gradual"),
        Shot(2, 52, 70, "gradual", "edge"),
    ]


def test_short_ones_are_left_out_and_long_ones_divided():
    lengths = Lengths(least=2.0, most=5.0)
    found = shots(hard(19, 39), times(141), lengths)
    assert found == [
        Shot(1, 19, 39, "hard", "hard"),
        Shot(2, 39, 73, "hard", "split"),
        Shot(2, 73, 107, "split", "split"),
        Shot(2, 107, 141, "split", "edge"),
    ]
    assert shots([], times(50), Lengths(2.0, 5.0)) == [Shot(0, 0, 50, "edge", "edge")]
    assert len(shots([], times(51), Lengths(2.0, 5.0))) == 2
    assert shots([Transition(0, 100)], times(100), lengths) == []
    assert shots(hard(5, 10, 15), times(20), lengths) == []


def test_seconds_are_those_of_timestamps():
    slow = np.concatenate([np.arange(10) / 10, 1 + np.arange(31) / 2])
    assert shots([], slow, Lengths(1.0, 4.0)) == [
        Shot(0, 0, 16, "edge", "split"),
        Shot(0, 16, 24, "split", "split"),
        Shot(0, 24, 32, "split", "split"),
        Shot(0, 32, 40, "split", "edge"),
    ]


@pytest.mark.parametrize("length", [1, 2, 4])
def test_flashes_are_no_cuts(tmp_path, length):
    """A cut beside them is one."""
    frames = np.concatenate([scene(1, 60), scene(2, 60)])
    for at in (10, 30, 65):
        frames[at : at + length] = frames[at : at + length] // 4 + 190
    write_video(tmp_path / "x.mp4", frames, 25)
    found = scan(tmp_path / "x.mp4", Fraction(25), [one.open(Fraction(25)) for one in (Adaptive(), Content())])
    assert united(found.transitions) == hard(60)


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001)])
def test_footage_is_cut_where_it_changes(tmp_path, rate):
    parts = [scene(seed, count) for seed, count in enumerate((60, 75, 20, 90, 80))]
    faded = through_black(parts[3], parts[4], 10)
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "x.mp4", np.concatenate([*parts[:3], faded]), rate)
    ingest, stage = Ingest(sources=(str(tmp_path / "in"),)), Shots(lengths=Lengths(1.0, 20.0))
    library = opened_library(tmp_path / "out", [ingest, stage])
    work_through(ingest, library)
    rows = work_through(stage, library)
    assert [(row["shot"], row["cut_in"], row["cut_out"]) for row in rows] == [
        (0, "edge", "hard"),
        (1, "hard", "hard"),
        (3, "hard", "gradual"),
        (4, "gradual", "edge"),
    ]
    spans = [(row["start_frame"], row["end_frame"]) for row in rows]
    assert spans[:2] == [(0, 60), (60, 135)]
    assert spans[2][0] == 155
    assert 225 <= spans[2][1] <= 235 < 255 <= spans[3][0] <= 265
    assert spans[3][1] == 325
    for row in rows:
        assert row["start_s"] == pytest.approx(float(row["start_frame"] / Fraction(rate)), abs=1e-3)
        assert row["end_s"] == pytest.approx(float(row["end_frame"] / Fraction(rate)), abs=1e-3)
        assert row["crop"] == [0, 0, 160, 90]
    md5 = library.table("ingest").rows().column("md5").to_pylist()[0]
    assert rows[0]["clip_id"] == clip_id(md5, 0, 60, (0, 0, 160, 90))
    assert library.table("shots").rows().schema == records.SHOTS


def seen(level, brightest=None, change=None, fps=25):
    level = np.asarray(level, np.float32)
    other = [level if given is None else np.asarray(given, np.float32) for given in (brightest, change)]
    return Seen(level, *other, Fraction(fps))


def test_a_fade_is_what_goes_to_black_and_comes_from_it():
    level = np.full(100, 120.0)
    level[40:50], level[50:53], level[53:63] = np.linspace(108, 0, 10), 0, np.linspace(12, 120, 10)
    (fade,) = fades_around(51, seen(level), 12)
    assert 37 <= fade.start <= 40
    assert 63 <= fade.end <= 66
    assert fades_around(10, seen(level), 12) == []


def test_a_dark_shot_is_no_fade_and_stays_between_two():
    level = np.full(200, 120.0)
    level[40:140] = 8.0
    assert fades_around(90, seen(level, np.full(200, 90.0)), 12) == []
    level[40:44], level[136:140] = 0, 0
    bright = np.where(level == 0, 0, 90.0)
    first, second = fades_around(90, seen(level, bright), 12)
    assert 36 <= first.start <= 40 < 44 <= first.end <= 48
    assert 132 <= second.start <= 136 < 140 <= second.end <= 144


def test_a_fade_takes_two_seconds_at_most_on_each_side():
    level = np.abs(np.arange(301) - 150.0)
    assert fades_around(150, seen(level), 12) == [Transition(150 - 11 - 50, 150 + 12 + 50)]


def test_scores_become_transitions():
    one, many, change = np.zeros(100), np.zeros(100), np.full(100, 1.0)
    one[19], many[19:21], change[20] = 0.9, 0.9, 60.0  # a cut: frame 20 is the first of the new shot
    many[40:46], many[51:55] = 0.6, 0.6  # a fade with a hole of 5 frames
    many[70], many[77] = 0.6, 0.6  # two with a hole of 6
    found = scored(one, many, change, TransNet())
    assert found == [Transition(20, 20), Transition(40, 55), Transition(70, 71), Transition(77, 78)]
    assert scored(one, np.zeros(100), change, TransNet(one_hot=0.95)) == []
    assert scored(one, many, change, TransNet(gap=6))[-1] == Transition(70, 78)


def test_detectors_see_a_cut():
    frames = np.concatenate([scene(0, 30), scene(1, 30)])
    for settings in (Adaptive(), Content()):
        running = settings.open(Fraction(25))
        for number, frame in enumerate(frames):
            running.take(number, frame, frame)
        assert running.found(seen(np.zeros(60))) == [Transition(30, 30)]
    running = Adaptive(least=250.0).open(Fraction(25))
    for number, frame in enumerate(frames):
        running.take(number, frame, frame)
    assert running.found(seen(np.zeros(60))) == []


def cut(tmp_path, stage, frames, fps=25):
    (tmp_path / "in").mkdir(parents=True)
    write_video(tmp_path / "in" / "x.mp4", frames, fps)
    ingest = Ingest(sources=(str(tmp_path / "in"),))
    library = opened_library(tmp_path / "out", [ingest, stage])
    work_through(ingest, library)
    return work_through(stage, library)


@pytest.fixture
def blank(tmp_path):
    """A file of weights that are all 0, but for the last biases: a network that says of every frame the same."""

    def make(bias):
        from lcv_jax.data.curation.transnet import Architecture

        values = {name: np.zeros(shape, np.float32) for name, shape in Architecture().shapes().items()}
        save_file(values | {f"cls_layer{head}.bias": np.float32([bias]) for head in (1, 2)}, tmp_path / "x.safetensors")
        return str(tmp_path / "x.safetensors")

    return make


def test_weights_decide_by_their_bytes(blank, tmp_path):
    stage = Shots(weights=blank(9))
    told = stage.decides()
    (tmp_path / "x.safetensors").rename(tmp_path / "y.safetensors")
    assert Shots(weights=str(tmp_path / "y.safetensors")).decides() == told
    assert told != Shots().decides()
    blank(8)
    assert stage.decides() != told


@pytest.mark.slow
def test_the_network_and_detectors_are_united(blank, tmp_path):
    """Here a network that takes each frame for a transition, so that nothing is left, and one that takes none."""
    frames = np.concatenate([scene(0, 60), scene(1, 60)])
    with pytest.raises(InputError, match=r"x\.mp4: none of its 2 shots lasts 2 seconds, of 4\.80 in all"):
        cut(tmp_path / "all", Shots(weights=blank(9)), frames)
    rows = cut(tmp_path / "none", Shots(weights=blank(-9)), frames)
    assert [(row["start_frame"], row["end_frame"]) for row in rows] == [(0, 60), (60, 120)]


def test_what_has_no_shots_is_rejected(tmp_path):
    frames = np.concatenate([scene(seed, 30) for seed in range(3)])
    with pytest.raises(InputError, match=r"none of its 3 shots lasts 2 seconds, of 3\.60 in all"):
        cut(tmp_path, Shots(), frames)
    with pytest.raises(InputError, match=r"x\.mp4: shows nothing but black"):
        cut(tmp_path / "black", Shots(), np.zeros((60, 64, 96, 3), np.uint8))


def test_damage_is_told(tmp_path):
    path = tmp_path / "x.mp4"
    write_video(path, np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), np.uint8), 15)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    worker = Shots().open(opened_library(tmp_path / "out", [Ingest(), Shots()]))
    with pytest.raises(InputError, match=r"x\.mp4: is damaged after 2\d decoded frames"):
        worker({"source_id": "x.mp4", "uri": str(path), "md5": "0", "source_fps": 15.0})


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (lambda: Lengths(least=3.0, most=5.0), r"least=3\.0, most=5\.0: expected seconds above 0, most at least twice"),
        (lambda: Lengths(trim_hard=-1), "trim_hard=-1: expected frames"),
        (lambda: Lengths(trim_gradual=-1), "trim_gradual=-1: expected frames"),
        (lambda: Adaptive(window=0), "window=0: expected at least 1"),
        (lambda: Adaptive(threshold=0), "threshold=0: expected above 0"),
        (lambda: Content(threshold=-1), "threshold=-1: expected above 0"),
        (lambda: Fades(threshold=300), "threshold=300: expected above 0, up to 255"),
        (lambda: TransNet(one_hot=0), "one_hot=0: expected above 0, up to 1"),
        (lambda: TransNet(many_hot=2), "many_hot=2: expected above 0, up to 1"),
        (lambda: TransNet(gap=-1), "gap=-1: expected frames"),
        (lambda: Shots(detectors=()).check(), "neither detectors nor weights"),
        (lambda: Shots(weights="/none/x.safetensors").decides(), r"/none/x\.safetensors: no such file; docs/curation"),
    ],
)
def test_settings_are_checked(given, match):
    with pytest.raises(InputError, match=match):
        given()


def test_settings_are_told_apart():
    told = [stage.decides() for stage in (Shots(), Shots(detectors=(Content(),)), Shots(lengths=Lengths(least=1.0)))]
    assert len({str(one) for one in told}) == 3
    assert Shots(known=("elsewhere",)).decides() == told[0]


@pytest.mark.slow
def test_a_real_shot_is_one_and_whole(tmp_path):
    source = pathlib.Path(__file__).parents[4] / "shared" / "media" / "motorcycle.mp4"
    if not source.is_file():
        pytest.skip(f"{source} is not here")
    stage = Shots()
    ingest = Ingest(sources=(str(source),))
    library = opened_library(tmp_path, [ingest, stage])
    work_through(ingest, library)
    (row,) = work_through(stage, library)
    assert (row["start_frame"], row["end_frame"], row["cut_in"], row["cut_out"]) == (0, 120, "edge", "edge")
    assert (row["crop"], row["overlay"]) == ([0, 0, 3840, 2160], None)
