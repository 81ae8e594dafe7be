"""Shots: arithmetic by hand, and generated footage whose cuts are known."""

from fractions import Fraction

import numpy as np
import pytest

from footage import opened_library, scene, through_black, work_through
from lcv_jax.data.curation import records
from lcv_jax.data.curation.cuts import Lengths, Shot, shots, united
from lcv_jax.data.curation.detectors import Transition
from lcv_jax.data.curation.ingest import Ingest
from lcv_jax.data.curation.shots import Shots, clip_id
from lcv_jax.data.video_writer import write_video


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
