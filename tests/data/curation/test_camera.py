"""The camera's movement, on clips whose camera is known: its names, its rates with their signs, and what moves before
it."""

import itertools

import numpy as np
import pytest

from camera_scenes import MOVES, Scene, drawn, picture
from lcv_jax.data.curation.scorers.base import Flow, Sample
from lcv_jax.data.curation.scorers.camera import LABELS, Camera, camera_moves, smoothed
from lcv_jax.data.curation.scorers.motion import Motion
from lcv_jax.data.curation.scorers.views import FlowReader, FlowView
from lcv_jax.data.video import stream_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

STILL = np.zeros((1, 8, 8, 3), np.uint8)


def flow_of(frames, fps, view=None) -> Flow:
    reader = FlowReader(view or FlowView(), len(frames), fps)
    for number, frame in enumerate(frames):
        if number in reader.numbers:
            reader.add(number, frame)
    return reader.flow()


def told(flow, **settings):
    return Camera(**settings).open()([Sample("x", STILL, flow)])[0]


@pytest.fixture(scope="module")
def ground():
    return picture(7)


def seen(ground, *args, **settings):
    scene = Scene(*args, **{"fps": 15.0, "seconds": 1.4, "size": (180, 320), **settings})
    return told(flow_of(scene.frames(ground), scene.fps))


@pytest.mark.parametrize("move", MOVES)
def test_moves_have_their_names(ground, move):
    found = seen(ground, move, 0.15, 3, noise=3.0, wobble=0.01)
    assert found["camera"] == [move]
    assert found["camera_inliers"] > 0.8


@pytest.mark.parametrize(
    ("move", "at", "sign"),
    [
        ("pan_right", 0, 1),
        ("pan_left", 0, -1),
        ("tilt_up", 1, 1),
        ("tilt_down", 1, -1),
        ("zoom_in", 2, 1),
        ("zoom_out", 2, -1),
    ],
)
def test_rates_are_right(ground, move, at, sign):
    rates = np.array(seen(ground, move, 0.2, 4)["camera_rates"])
    assert rates[at] == pytest.approx(sign * 0.2, rel=0.08)  # DIS finds a little less at the border
    assert np.abs(np.delete(rates, at)).max() < 0.01


def test_pan_right_shifts_what_is_seen_to_the_left():
    """By hand: a picture rolled to the left by 3 pixels of 160 a frame, at 10 frames a second."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (18, 32, 3), np.uint8)
    ground = np.kron(small, np.ones((5, 5, 1), np.uint8))
    frames = [np.roll(ground, -3 * k, 1) for k in range(8)]
    found = told(flow_of(frames, 10.0))
    assert found["camera"] == ["pan_right"]
    assert found["camera_rates"][0] == pytest.approx(3 / 160 * 10, rel=0.08)


def test_roll_is_positive_where_what_is_seen_turns_clockwise(ground):
    import cv2

    turns = [cv2.getRotationMatrix2D((1100, 750), -2.0 * k, 1.0) for k in range(10)]  # OpenCV's turn the other way
    frames = [cv2.warpAffine(ground, turn, (2200, 1500))[660:840, 940:1260] for turn in turns]
    found = told(flow_of(frames, 10.0))
    assert found["camera"] == ["roll"]
    assert found["camera_rates"][3] == pytest.approx(np.radians(2.0) * 10, rel=0.05)


def moved(rates, seconds=1 / 15, height=45, width=80) -> Flow:
    """The flow of a camera with these rates (P, 4), everywhere."""
    rows, columns = np.indices((height, width))
    x, y = (columns + 0.5) / width - 0.5, (rows + 0.5 - height / 2) / width
    moves = []
    for pan, tilt, zoom, roll in np.asarray(rates, float) * seconds:
        turn = np.exp(zoom) * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        to = np.stack([x, y], -1) @ turn.T + (-pan, tilt)
        moves.append(to - np.stack([x, y], -1))
    textured = np.ones((len(moves), height, width), bool)
    return Flow(np.float32(moves), textured, np.zeros(len(moves), int), seconds)


def test_rates_of_exact_flow_are_exact():
    found = told(moved([(0.1, -0.2, 0.3, 0.4)] * 5))
    np.testing.assert_allclose(found["camera_rates"], (0.1, -0.2, 0.3, 0.4), rtol=1e-3)
    assert found["camera"] == ["pan_right", "tilt_down", "zoom_in", "roll"]
    assert found["camera_inliers"] == 1
    assert found["camera_shake"] < 1e-4


@pytest.mark.parametrize(
    ("rates", "names"),
    [
        ((0.019, -0.019, 0.0, 0.0), ["static"]),
        ((0.022, 0.0, 0.0, 0.0), ["pan_right"]),
        ((0.0, 0.0, -0.035, 0.0), ["zoom_out"]),
        ((0.4, 0.05, 0.0, 0.0), ["pan_right"]),  # the tilt is an eighth of the whole
        ((0.4, 0.08, 0.0, 0.0), ["pan_right", "tilt_up"]),  # a fifth
        ((0.4, 0.0, 0.2, 0.0), ["pan_right"]),  # a zoom by 0.2 moves points by 0.05 on average
    ],
)
def test_names_begin_at_their_thresholds(rates, names):
    assert told(moved([rates] * 8))["camera"] == names


def test_shake_is_what_smoothing_takes_away():
    rates = np.zeros((32, 4))
    rates[:, 0] = 0.2 * np.resize([1, -1], 32)
    found = told(moved(rates))
    assert found["camera"] == ["shake"]
    assert found["camera_shake"] == pytest.approx(0.2, rel=0.1)
    single = np.zeros((32, 4))
    single[::8, 1] = 0.3  # one wrong pair in eight
    assert told(moved(single))["camera_shake"] < 0.05


def test_things_that_pass_do_not_move_the_camera(ground):
    found = seen(ground, "static", 0.0, 5, things=3, noise=2.0)
    assert found["camera"] == ["static"]
    assert np.abs(found["camera_rates"]).max() < 0.003


def test_two_moves_have_two_names(ground):
    one = Scene("pan_left", 0.2, 1, 15.0, 1.4, (180, 320)).frames(ground)
    other = Scene("tilt_up", 0.2, 1, 15.0, 1.4, (180, 320)).frames(ground)
    flows = [flow_of(one, 15.0), flow_of(other, 15.0)]
    both = Flow(
        np.concatenate([flow.moves for flow in flows]),
        np.concatenate([flow.textured for flow in flows]),
        np.repeat([0, 1], [len(flow.moves) for flow in flows]),
        flows[0].seconds,
    )
    assert told(both)["camera"] == ["pan_left", "tilt_up"]


def test_of_what_agrees_on_nothing_nothing_is_said():
    frames = np.random.default_rng(1).integers(0, 256, (12, 90, 160, 3), np.uint8)
    found = told(flow_of(frames, 15.0))
    assert found["camera"] == []
    assert found["camera_rates"] is None
    assert found["camera_shake"] is None
    assert found["camera_inliers"] < 0.3
    blank = told(flow_of(np.full((12, 90, 160, 3), 200, np.uint8), 15.0))
    assert (blank["camera"], blank["camera_inliers"]) == ([], 0.0)


def test_a_clip_of_one_frame_has_no_motion():
    assert set(told(None).values()) == {None}
    assert Motion().open()([Sample("x", STILL)]) == [{"flow": None, "flow_p90": None}]


def test_motion_is_in_percent_of_the_width_a_second(ground):
    panned = Scene("pan_left", 0.1, 1, 30.0, 1.0, (180, 320)).frames(ground)
    found = Motion().open()([Sample("x", STILL, flow_of(panned, 30.0))])[0]
    assert found["flow"] == pytest.approx(10, rel=0.1)
    assert found["flow_p90"] == pytest.approx(10, rel=0.15)
    still = np.repeat(panned[:1], 9, 0)
    assert Motion().open()([Sample("x", STILL, flow_of(still, 30.0))])[0]["flow"] < 0.01


def test_pairs_are_close_in_time_and_few():
    view = FlowView(rate=15, most=48, run=24)
    assert view.step(100, 30.0) == 2
    assert view.step(100, 15.0) == view.step(100, 12.0) == 1
    assert view.step(2, 60.0) == 1
    assert view.runs(9, 2) == [[0, 2, 4, 6, 8]]
    assert view.runs(1, 1) == [[0]]
    runs = view.runs(10_000, 2)
    assert [len(run) for run in runs] == [25, 25]
    assert (runs[0][0], runs[1][-1]) == (0, 9998)
    assert all(b - a == 2 for run in runs for a, b in itertools.pairwise(run))


def test_running_means_stay_in_their_runs():
    rates = np.zeros((7, 4))
    rates[:3, 0], rates[3:, 0] = [3, 0, 3], [1, 1, 1, 5]
    found = smoothed(rates, np.array([0, 0, 0, 1, 1, 1, 1]), 3)
    np.testing.assert_allclose(found[:, 0], [1.5, 2, 1.5, 1, 1, 7 / 3, 3])


def test_moves_of_too_few_points_are_not_believed():
    flow = Flow(np.zeros((1, 9, 16, 2), np.float32), np.zeros((1, 9, 16), bool), np.zeros(1, int), 0.1)
    assert camera_moves(flow, 0.6).inliers.tolist() == [0.0]


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"pan": 0.0}, "camera, pan=0.0: expected at least"), ({"share": 1.5}, "camera, share=1.5: expected 0 to 1")],
)
def test_settings_are_checked(settings, match):
    with pytest.raises(InputError, match=match):
        Camera(**settings)


@pytest.mark.parametrize(
    ("settings", "match"),
    [({"width": 10}, "width=10"), ({"rate": 0.0}, "rate=0.0"), ({"run": 1}, "run=1"), ({"most": 3}, "most=3")],
)
def test_view_settings_are_checked(settings, match):
    with pytest.raises(InputError, match=rf"--annotate\.flow\.{match}: expected at least"):
        FlowView(**settings)


def test_names_are_those_of_the_record():
    assert LABELS == MOVES


@pytest.mark.slow
def test_of_many_drawn_scenes_nearly_all_are_right(tmp_path):
    """Ten kinds, all speeds, rates, noise and compression drawn; the whole answer must be the one name."""
    right = []
    for seed in range(2000, 2100):
        if seed % 10 == 0:
            ground = picture(seed // 10)
        scene = drawn(seed)
        write_video(tmp_path / "x.mp4", scene.frames(ground), scene.fps, crf=(18, 23, 28)[seed % 3])
        right.append(told(flow_of(list(stream_video(tmp_path / "x.mp4")), scene.fps))["camera"] == [scene.move])
    assert np.mean(right) >= 0.95
