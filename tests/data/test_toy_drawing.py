"""What is drawn is what the facts say: shapes by their geometry, motions by their paths, grounds by their shades."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.data import toy
from lcv_jax.data.toy.ground import draw_ground
from lcv_jax.data.toy.layout import FASTEST_TURN, GAP, MARGIN, lay_out, least_turn
from lcv_jax.data.toy.shapes import SYMMETRY, signed_distance
from lcv_jax.errors import InputError

PLAIN = toy.Ground("white", "plain")


def one(motion: str | None, shape: str = "square") -> toy.Facts:
    return toy.Facts((toy.Object("blue", shape, motion),), PLAIN)


@pytest.fixture(scope="module")
def plane():
    """x, y (600, 600), 0.005 apart, from -1.5 to 1.5; no edge of a shape goes through a point."""
    line = (np.arange(600) - 299.5) * 0.005
    return np.meshgrid(line, line)


@pytest.mark.parametrize("shape", toy.SHAPES)
class TestShapes:
    def test_lies_in_the_unit_circle_around_its_centre_of_mass(self, shape, plane):
        x, y = plane
        inside = signed_distance(shape, x, y) < 0
        assert 0.8 < np.hypot(x, y)[inside].max() <= 1.001
        assert abs(x[inside].mean()) < 1e-3
        assert abs(y[inside].mean()) < 2e-3

    def test_looks_the_same_after_its_symmetry_and_not_before(self, shape, plane):
        x, y = plane

        def turned(degrees):
            c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            return signed_distance(shape, c * x + s * y, c * y - s * x)

        def differing(degrees):
            return ((turned(degrees) < 0) != (turned(0) < 0)).mean()

        symmetry = SYMMETRY[shape]
        assert differing(symmetry or 37.0) < 1e-3
        if symmetry:
            assert all(differing(symmetry * share) > 0.01 for share in (0.25, 1 / 3, 0.5))

    def test_the_distance_is_one_near_the_edges(self, shape, plane):
        """Its gradient has length 1 wherever it is close to the outline, but for corners."""
        distance = signed_distance(shape, *plane)
        slope = np.hypot(*np.gradient(distance, 0.005))
        near = np.abs(distance) < 0.03
        assert (np.abs(slope[near] - 1) < 0.02).mean() > 0.97

    def test_stands_upright(self, shape, plane):
        x, y = plane
        inside = signed_distance(shape, x, y) < 0
        np.testing.assert_array_equal(inside, inside[:, ::-1])
        top = -y[inside].min()
        bottom = y[inside].max()
        expected = {"triangle": (1.0, 0.5), "star": (1.0, 0.81), "heart": (0.66, 0.97)}
        assert (top, bottom) == pytest.approx(expected.get(shape, (top, top)), abs=0.02)


@pytest.mark.smoke
def test_a_still_square_by_hand():
    clip, captions = toy.render(one("still"), 3, (64, 96), 5)
    (path,) = lay_out(one("still"), 3, (64, 96), 5)
    assert clip.shape == (5, 64, 96, 3)
    assert clip.dtype == np.uint8
    assert (clip == clip[:1]).all()
    away = np.hypot(*(np.mgrid[:64, :96] + 0.5 - np.array([path.y[0], path.x[0]])[:, None, None])) / path.radius[0]
    assert (clip[0][away < 0.6] == toy.COLOURS["blue"]).all()
    assert (clip[0][away > 1.1] == toy.TONES["white"]).all()
    white, blue = np.array(toy.TONES["white"]), np.array(toy.COLOURS["blue"])
    share = ((white - clip[0].astype(float)) / (white - blue)).mean(axis=-1)
    side = 2 * 0.7 * path.radius[0]
    assert share.sum() == pytest.approx(side**2, rel=0.01)  # antialiasing keeps the area
    assert toy.parse(captions["en"]).objects == toy.parse(captions["zh"]).objects == one("still").objects


def test_the_same_arguments_give_the_same_bytes_and_other_seeds_others():
    facts = toy.sample(4)
    first, again = (toy.render(facts, 9, (32, 48), 5) for _ in range(2))
    assert first.clip.tobytes() == again.clip.tobytes()
    assert first.captions == again.captions
    assert first.clip.tobytes() != toy.render(facts, 10, (32, 48), 5).clip.tobytes()


@pytest.mark.parametrize("frames", [2, 5, 93])
@pytest.mark.parametrize("motion", toy.MOTIONS)
def test_motions_move_as_they_are_called(motion, frames):
    for seed in range(20):
        (path,) = lay_out(one(motion), seed, (64, 64), frames)
        moved = np.array([path.x[-1] - path.x[0], path.y[-1] - path.y[0]]) / 64
        grown, turned = path.radius[-1] / path.radius[0], path.angle[-1] - path.angle[0]
        way = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}.get(motion, (0, 0))
        assert 0.3 <= moved @ np.array(way) <= 0.42 or way == (0, 0)
        np.testing.assert_allclose(moved * (np.array(way) == 0), 0, atol=1e-9)
        assert {"grows": 1.6 <= grown <= 2, "shrinks": 0.5 <= grown <= 1 / 1.6}.get(motion, grown == 1)
        assert least_turn(frames) <= turned <= least_turn(frames) / 0.85 if motion == "turns" else turned == 0
        for values in (path.x, path.y, path.radius, path.angle):
            steps = np.diff(values)
            np.testing.assert_allclose(steps, steps[0], atol=1e-9)  # evenly
        assert np.diff(path.angle).max() <= FASTEST_TURN + 1e-9


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**40), st.sampled_from([(32, 32), (64, 64), (32, 128), (160, 96)]), st.integers(1, 30))
def test_objects_stay_in_view_and_apart(seed, size, frames):
    facts = toy.sample(seed, (2, 3, 3))
    paths = lay_out(facts, seed, size, frames)
    short = min(size)
    for path in paths:
        edge = path.radius + MARGIN * short - 1e-6
        for place, length in ((path.x, size[1]), (path.y, size[0])):
            assert (place >= edge).all()
            assert (place <= length - edge).all()
    for a, b in itertools.combinations(paths, 2):
        between = np.hypot(a.x - b.x, a.y - b.y) - a.radius - b.radius
        assert (between >= 0.9 * GAP * short).all()


def test_objects_are_large_enough_to_survive_an_autoencoder():
    for seed in range(60):
        facts = toy.sample(seed)
        for each, path in zip(facts.objects, lay_out(facts, seed, (64, 64), 5), strict=True):
            least = {1: 0.28, 2: 0.22, 3: 0.2} if each.motion in ("grows", "shrinks") else {1: 0.38, 2: 0.3, 3: 0.27}
            assert 2 * path.radius.min() >= least[len(facts.objects)] * 64 - 1e-9
            assert 2 * path.radius.max() >= 64 / 4


def test_length_changes_only_the_speed():
    facts = toy.sample(5)
    short, long = (toy.render(facts, 1, (48, 64), frames).clip for frames in (5, 9))
    if all(each.motion != "turns" for each in facts.objects):
        np.testing.assert_array_equal(short, long[::2])
    assert len(short) != len(long)


def test_size_changes_only_the_resolution():
    for seed in range(5):
        facts = toy.sample(seed)
        small, large = (toy.render(facts, seed, size, 3).clip.astype(float) for size in ((48, 64), (192, 256)))
        averaged = large.reshape(3, 48, 4, 64, 4, 3).mean(axis=(2, 4))
        assert np.abs(averaged - small).mean() < 1.0


@pytest.mark.parametrize("pattern", toy.PATTERNS)
@pytest.mark.parametrize("tone", toy.TONES)
def test_grounds_have_the_shades_they_should(tone, pattern):
    ground = draw_ground(toy.Ground(tone, pattern), 2, (96, 160))
    first = np.array(toy.TONES[tone], np.float32)
    difference = (ground - first).mean(axis=-1)
    assert np.ptp(difference - (ground - first)[..., 0]) < 1e-3  # brightness alone
    share = np.abs(difference) / 24
    expected = {"plain": 0, "striped": 0.5, "checked": 0.5, "dotted": np.pi * 0.25**2}[pattern]
    assert share.mean() == pytest.approx(expected, abs=0.06)
    assert ((share < 0.01) | (share > 0.99)).mean() > 0.75
    assert ground.min() >= 0
    assert ground.max() <= 255


def test_a_picture_has_no_motion_in_its_captions():
    clip, captions = toy.render(one("left"), 0, (32, 32), 1)
    assert clip.shape == (1, 32, 32, 3)
    assert all(toy.parse(caption).objects == one(None).objects for caption in captions.values())
    assert toy.judge(clip).facts == one(None)
    assert toy.render(one(None), 0, (32, 32), 1).clip.shape == clip.shape


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((one("up"), 0, (31, 64), 5), r"size=\(31, 64\): expected \(height, width\), each at least 32"),
        ((one("up"), 0, (64,), 5), r"size=\(64,\): expected"),
        ((one("up"), 0, (64, 64), 0), "frames=0: expected at least 1"),
        ((one("up"), -1, (64, 64), 5), r"seed=\[-1, 1\]: expected an integer from 0"),
        ((one(None), 0, (64, 64), 5), "objects without motion, but frames=5; name motions, or draw 1 frame"),
        ((toy.Facts(one("up").objects), 0, (64, 64), 5), "no ground; a clip needs one"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        toy.render(*arguments)
