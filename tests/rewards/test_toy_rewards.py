"""The toy judges put real clips above degraded ones, look at one thing each, and count what they see as written."""

import numpy as np
import pytest
import scipy.ndimage

from lcv_jax.data import toy
from lcv_jax.data.toy.facts import motions_of
from lcv_jax.errors import InputError
from lcv_jax.rewards.protocol import ALL_FRAMES, FramePick
from lcv_jax.rewards.toy import motion_quality, text_alignment, toy_rewards, visual_quality

SIZE, FRAMES = (64, 64), 13
REWARDS = {reward.name: reward for reward in toy_rewards()}


def blurred(clip: np.ndarray, pixels: float) -> np.ndarray:
    return np.round(scipy.ndimage.gaussian_filter(np.float32(clip), (0, pixels, pixels, 0))).astype(np.uint8)


def noisy(clip: np.ndarray, levels: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, levels, clip.shape)
    return np.clip(np.round(clip + noise), 0, 255).astype(np.uint8)


def frozen(clip: np.ndarray) -> np.ndarray:
    return np.repeat(clip[:1], len(clip), axis=0)


def shuffled(clip: np.ndarray) -> np.ndarray:
    return clip[np.random.default_rng(1).permutation(len(clip))]


def grey(clip: np.ndarray) -> np.ndarray:
    return np.repeat(np.round(clip @ np.array([0.299, 0.587, 0.114]))[..., None], 3, axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def shown() -> list[tuple[toy.Facts, np.ndarray, dict[str, str]]]:
    """Facts, clips and captions of 1 to 3 objects, in turn; in each clip something moves."""
    found, seed = [], 0
    while len(found) < 6:
        facts = toy.sample([seed, 7], counts=(len(found) % 3 + 1,))
        if any(each.motion != "still" for each in facts.objects):
            found.append((facts, *toy.render(facts, seed, SIZE, FRAMES)))
        seed += 1
    return found


@pytest.fixture(scope="module")
def clips(shown) -> list[np.ndarray]:
    return [clip for _, clip, _ in shown]


@pytest.mark.smoke
@pytest.mark.parametrize("worse", [lambda c: blurred(c, 1), lambda c: blurred(c, 2), lambda c: noisy(c, 10)])
def test_every_clean_clip_looks_better_than_any_degraded_one(clips, worse):
    assert min(map(visual_quality, clips)) > 1.2 * max(visual_quality(worse(clip)) for clip in clips)


def test_quality_falls_with_blur_and_with_noise(clips):
    for degrade, strengths in ((blurred, (0.5, 1, 2)), (noisy, (3, 6, 12, 25))):
        scores = [[visual_quality(degrade(clip, strength)) for clip in clips[:3]] for strength in strengths]
        assert (np.diff(np.mean(scores, axis=1)) < 0).all()


def test_quality_looks_at_pictures_alone(clips):
    for clip in clips[:2]:
        assert visual_quality(shuffled(clip)) == pytest.approx(visual_quality(clip))
        mean = np.mean([visual_quality(frame[None]) for frame in clip])
        assert visual_quality(clip) == pytest.approx(mean, rel=1e-5)
    scores = REWARDS["toy-visual"](clips[:2], ["a red circle", "anything"])
    np.testing.assert_array_equal(scores, REWARDS["toy-visual"](clips[:2], ["", "?"]))


def test_a_picture_of_nothing_has_no_quality():
    for level in (0, 18, 246):
        assert visual_quality(np.full((2, 32, 32, 3), level, np.uint8)) == 0


@pytest.mark.smoke
def test_every_motion_counts_more_than_the_same_frames_in_another_order(clips):
    for clip in clips:
        score = motion_quality(clip)
        assert score > 5 * motion_quality(shuffled(clip))
        assert score > 2 * motion_quality(np.concatenate([clip[7:], clip[:6]]))  # a cut
        assert score > 0.1


def test_nothing_that_moves_has_no_motion_quality(clips):
    assert [motion_quality(frozen(clip)) for clip in clips] == [0] * len(clips)
    assert motion_quality(np.zeros((5, 32, 32, 3), np.uint8)) == 0


def test_noise_and_flicker_are_no_motion(clips):
    assert motion_quality(np.random.default_rng(0).integers(0, 256, (13, 64, 64, 3), np.uint8)) < 0.01
    for clip in clips:
        assert motion_quality(noisy(frozen(clip), 20)) < 0.02
        dark = frozen(clip).copy()
        dark[::2] //= 2
        assert motion_quality(dark) < 0.02
    scores = [np.mean([motion_quality(noisy(clip, levels)) for clip in clips]) for levels in (1, 10, 30, 90)]
    assert (np.diff(scores) < 0).all()


def test_motion_is_seen_in_grey(clips):
    for clip in clips:
        assert motion_quality(grey(clip)) == pytest.approx(motion_quality(clip), abs=0.01)


@pytest.mark.parametrize("motion", [name for name in toy.MOTIONS if name != "still"])
def test_every_kind_of_motion_counts_and_both_ways_alike(motion):
    shapes = [shape for shape in toy.SHAPES if motion in motions_of(shape)]
    ground = toy.Ground("white", "checked")
    for seed, shape in enumerate(shapes):
        clip = toy.render(toy.Facts((toy.Object("blue", shape, motion),), ground), seed, SIZE, FRAMES).clip
        assert motion_quality(clip) > 0.2
        assert motion_quality(clip[::-1]) == pytest.approx(motion_quality(clip), abs=1e-4)


def test_motion_of_too_few_frames_is_refused():
    with pytest.raises(InputError, match="a video of 4 frames, expected at least 5"):
        motion_quality(np.zeros((4, 32, 32, 3), np.uint8))


@pytest.mark.smoke
@pytest.mark.parametrize("language", toy.LANGUAGES)
def test_own_captions_fit_better_than_others(shown, language):
    clips, captions = [clip for _, clip, _ in shown], [each[language] for _, _, each in shown]
    own = REWARDS["toy-text"](clips, captions)
    others = REWARDS["toy-text"](clips, captions[1:] + captions[:1])
    assert own.min() > 0.85
    assert others.max() < own.min() - 0.2


def test_degraded_clips_fit_their_captions_less(shown):
    def mean(degrade):
        return np.mean([text_alignment(toy.judge(degrade(clip)), toy.parse(each["en"])) for _, clip, each in shown[:3]])

    whole = mean(lambda clip: clip)
    for worse in (frozen, shuffled, grey, lambda clip: noisy(clip, 60)):
        assert mean(worse) < whole - 0.03


GROUND = toy.Ground("white", "plain")


def seen(colour, shape, motion, certainty, x=0.5) -> toy.Seen:
    return toy.Seen(colour, shape, motion, certainty, (0.0, 0.0, 0.0), x, 0.5)


@pytest.mark.parametrize(
    ("objects", "facts", "expected"),
    [
        # All right, one certain by half: colour 1, shape 0.75, motion 1, number 1.
        (
            [seen("red", "star", "up", (1.0, 0.5, 1.0))],
            toy.Facts((toy.Object("red", "star", "up"),)),
            (1 + 0.75 + 1 + 1) / 4,
        ),
        # A wrong shape that the judge is unsure of, an unknown motion.
        (
            [seen("red", "star", None, (1.0, 0.2, 0.0))],
            toy.Facts((toy.Object("red", "heart", "up"),)),
            (1 + 0.4 + 0 + 1) / 4,
        ),
        # The ground: the tone is right, the pattern is not.
        (
            [seen("red", "star", "up", (1.0, 1.0, 1.0))],
            toy.Facts((toy.Object("red", "star", "up"),), toy.Ground("white", "dotted")),
            (1 + 1 + 1 + 1 + 0.5) / 5,
        ),
        # One of two is missing; what a picture's caption does not tell counts as shown.
        (
            [seen("blue", "star", None, (1.0, 1.0, 0.0))],
            toy.Facts((toy.Object("red", "circle"), toy.Object("blue", "star"))),
            (0.5 + 0.5 + 0.5 + 0.5) / 4,
        ),
        # Paired by the largest sum, not in their order.
        (
            [seen("red", "star", "up", (1.0, 1.0, 1.0)), seen("blue", "heart", "down", (1.0, 1.0, 1.0))],
            toy.Facts((toy.Object("blue", "heart", "down"), toy.Object("red", "star", "up"))),
            1.0,
        ),
        # Nothing is seen.
        ([], toy.Facts((toy.Object("red", "star", "up"),), GROUND), 1 / 5),
    ],
)
def test_alignment_by_hand(objects, facts, expected):
    reading = toy.Reading(tuple(objects), GROUND)
    assert text_alignment(reading, facts) == pytest.approx(expected)
    assert text_alignment(toy.Reading(tuple(objects[::-1]), GROUND), facts) == pytest.approx(expected)


def test_a_ground_that_cannot_be_told_is_not_as_asked_for():
    facts = toy.Facts((toy.Object("red", "star", "up"),), GROUND)
    one = seen("red", "star", "up", (1.0, 1.0, 1.0))
    assert text_alignment(toy.Reading((one,), None), facts) == pytest.approx(4 / 5)


def test_the_score_has_no_jump_where_the_judge_changes_its_mind():
    facts = toy.Facts((toy.Object("red", "star", "up"),))
    right, wrong = (
        text_alignment(toy.Reading((seen("red", shape, "up", (1.0, 1e-6, 1.0)),), GROUND), facts)
        for shape in ("star", "heart")
    )
    assert right == pytest.approx(wrong, abs=1e-5)


def test_prompts_of_another_world_are_refused_by_the_text_judge_alone():
    for name in ("toy-visual", "toy-motion"):
        REWARDS[name].check(["a cat on a sofa"])
    REWARDS["toy-text"].check(["A red circle moves up."])
    with pytest.raises(InputError, match="caption 'a cat on a sofa'"):
        REWARDS["toy-text"].check(["A red circle moves up.", "a cat on a sofa"])


def test_all_frames_are_looked_at():
    assert [each.picks for each in toy_rewards()] == [ALL_FRAMES, FramePick(needs=5), ALL_FRAMES]
