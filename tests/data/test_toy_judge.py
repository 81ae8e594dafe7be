"""The judge reads what was drawn, also through a codec, noise and blur, and fails where it must."""

import collections

import numpy as np
import pytest
import scipy.ndimage

from lcv_jax.data import toy
from lcv_jax.data.toy.scoring import ATTRIBUTES
from lcv_jax.data.video import read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError

MIRRORED = {"left": "right", "right": "left"}
REVERSED = MIRRORED | {"up": "down", "down": "up", "grows": "shrinks", "shrinks": "grows"}


def noisy(clip, rng, folder):
    """Sensor noise of 8 levels."""
    return clipped(clip + rng.normal(0, 8, clip.shape))


def blurred(clip, rng, folder):
    """By one pixel."""
    return clipped(scipy.ndimage.gaussian_filter(clip.astype(np.float32), (0, 1, 1, 0)))


def encoded(clip, rng, folder):
    """H.264, 4:2:0, at crf 23."""
    write_video(folder / "clip.mp4", clip, 15, crf=23)
    return read_video(folder / "clip.mp4").frames


def autoencoded(clip, rng, folder):
    """Half the resolution, smooth blotches of 8 levels, and a cast of colour."""
    count, height, width, _ = clip.shape
    small = clip.reshape(count, height // 2, 2, width // 2, 2, 3).mean(axis=(2, 4))
    large = scipy.ndimage.uniform_filter(small.repeat(2, axis=1).repeat(2, axis=2), (1, 3, 3, 1))
    blotches = scipy.ndimage.gaussian_filter(rng.normal(0, 1, large.shape), (1, 2, 2, 0)) * 60
    return clipped(large + blotches + rng.normal(0, 8, 3))


def clipped(clip):
    return np.clip(np.round(clip), 0, 255).astype(np.uint8)


def clean(clip, rng, folder):
    return clip


def accuracy(seeds, size, frames, degrade, folder, counts=(1, 2, 3)):
    """Share of right answers: "count", "ground" and "all" of clips, colour, shape and motion of objects."""
    right, asked = collections.Counter(), collections.Counter()
    for seed in seeds:
        facts = toy.sample(seed, counts)
        clip = degrade(toy.render(facts, seed, size, frames).clip, np.random.default_rng(seed), folder)
        facts = facts if frames > 1 else facts.without_motion()
        reading = toy.judge(clip)
        asked.update(["count", "ground", "all"])
        right["count"] += reading.count == len(facts.objects)
        right["ground"] += reading.ground == facts.ground
        right["all"] += reading.facts == facts
        scores = toy.compare(reading, facts)
        for name in ATTRIBUTES:
            asked[name] += len(facts.objects)
            right[name] += scores[name] * len(facts.objects)
    return {name: right[name] / asked[name] for name in asked}


@pytest.mark.smoke
@pytest.mark.parametrize(("size", "frames"), [((64, 64), 17), ((96, 160), 13), ((32, 48), 5), ((64, 96), 1)])
def test_reads_what_was_drawn(size, frames, tmp_path):
    shares = accuracy(range(24), size, frames, clean, tmp_path)
    assert min(shares.values()) == 1, shares


@pytest.mark.parametrize("degrade", [noisy, blurred, encoded, autoencoded])
def test_reads_through_damage(degrade, tmp_path):
    shares = accuracy(range(100, 115), (64, 64), 9, degrade, tmp_path)
    assert min(shares[name] for name in (*ATTRIBUTES, "count")) == 1, shares
    assert shares["ground"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("degrade", [clean, noisy, blurred, encoded, autoencoded])
@pytest.mark.parametrize(("size", "frames", "clips"), [((64, 64), 17, 2000), ((96, 160), 13, 2000)])
def test_reads_99_in_100_of_thousands(size, frames, clips, degrade, tmp_path):
    shares = accuracy(range(1000, 1000 + clips), size, frames, degrade, tmp_path)
    print(size, frames, clips, degrade.__name__, shares)
    assert min(shares.values()) >= 0.99, shares


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "frames", "clips", "counts"),
    [
        ((32, 32), 5, 500, (1, 2, 3)),
        ((32, 48), 5, 500, (1,)),
        ((64, 64), 5, 500, (1, 2, 3)),
        ((64, 64), 2, 500, (1, 2, 3)),
        ((64, 64), 93, 200, (1, 2, 3)),
        ((64, 128), 29, 500, (1, 2, 3)),
        ((128, 64), 13, 500, (1, 2, 3)),
        ((256, 256), 17, 100, (1, 2, 3)),
        ((250, 333), 7, 100, (1, 2, 3)),
        ((480, 832), 93, 20, (1, 2, 3)),
        ((64, 64), 1, 1000, (1, 2, 3)),
    ],
)
def test_reads_other_sizes_and_lengths(size, frames, clips, counts, tmp_path):
    shares = accuracy(range(5000, 5000 + clips), size, frames, clean, tmp_path, counts)
    print(size, frames, clips, counts, shares)
    assert min(shares.values()) >= 0.99, shares


def test_the_new_half_of_a_clip_is_enough():
    """A continuation is judged by the frames behind its condition, in which motions go half as far."""
    for seed in range(10):
        facts = toy.sample(seed)
        assert toy.judge(toy.render(facts, seed, (64, 64), 29).clip[13:]).facts == facts


def test_mirrors_and_reversal_change_what_they_should():
    """Against the pixels, not the generator: the judge of a mirrored or reversed clip sees just that."""
    for seed in range(12):
        facts = toy.sample(seed)
        clip = toy.render(facts, seed, (64, 64), 9).clip

        def with_motions(names, facts=facts):
            return [(each.colour, each.shape, names.get(each.motion, each.motion)) for each in facts.objects]

        for changed, names in ((clip[:, :, ::-1], MIRRORED), (clip[::-1], REVERSED)):
            seen = toy.judge(changed).objects
            assert [(each.colour, each.shape, each.motion) for each in seen] == with_motions(names)


def test_shuffled_captions_score_near_chance():
    facts = [toy.sample(seed, (1,)) for seed in range(160)]
    readings = [toy.judge(toy.render(each, seed, (32, 48), 5).clip) for seed, each in enumerate(facts)]
    captions = [toy.write_captions(each, seed)["zh"] for seed, each in enumerate(facts)]

    def mean(shift):
        pairs = zip(readings, np.roll(captions, shift), strict=True)
        each = [toy.compare(reading, toy.parse(str(caption))) for reading, caption in pairs]
        return {name: np.mean([scores[name] for scores in each]) for name in each[0]}

    assert mean(0) == {"colour": 1, "shape": 1, "motion": 1, "count": 1}
    shuffled = mean(1)
    chance = {"colour": 1 / len(toy.COLOURS), "shape": 1 / len(toy.SHAPES), "motion": 1 / len(toy.MOTIONS)}
    for name, share in chance.items():
        assert shuffled[name] == pytest.approx(share, abs=4 * (share * (1 - share) / len(facts)) ** 0.5)


def test_a_picture_shows_no_motion():
    clip = toy.render(toy.sample(3), 3, (64, 64), 9).clip
    picture = toy.judge(clip[4])
    assert [each.motion for each in picture.objects] == [None] * picture.count
    assert picture.facts == toy.sample(3).without_motion()
    assert all(each.certainty[2] == 0 for each in picture.objects)


def test_colours_are_measured():
    for seed in range(6):
        clip = toy.render(toy.sample(seed), seed, (64, 64), 5).clip
        for shift in (0, 10):
            shifted = clipped(clip * 0.9 + shift)
            for each in toy.judge(shifted).objects:
                assert each.rgb == pytest.approx(np.array(toy.COLOURS[each.colour]) * 0.9 + shift, abs=3)


@pytest.mark.parametrize("frames", [1, 5])
def test_nothing_is_seen_where_nothing_is(frames):
    for empty in (np.full((frames, 64, 64, 3), 128, np.uint8), np.zeros((frames, 48, 80, 3), np.uint8)):
        reading = toy.judge(empty)
        assert reading.count == 0
        assert reading.facts is None
        assert reading.ground.pattern == "plain"
        assert toy.score(empty, toy.sample(0)) == {"colour": 0, "shape": 0, "motion": 0, "count": 0}


def test_noise_is_no_object_of_the_world():
    noise = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    assert toy.score(noise, toy.sample(0, (1,)))["shape"] == 0


def painted(*things):
    """Five equal frames, 64 x 64, of (colour, rows, columns) on grey."""
    clip = np.full((5, 64, 64, 3), 150, np.uint8)
    for colour, rows, columns in things:
        clip[:, rows, columns] = colour
    return clip


def test_what_is_unlike_anything_has_no_name():
    (bar,) = toy.judge(painted((toy.COLOURS["red"], slice(26, 38), slice(12, 52)))).objects
    assert (bar.colour, bar.shape, bar.motion) == ("red", None, "still")
    ring = np.abs(np.hypot(*(np.mgrid[:64, :64] - 31.5)) - 13) < 4
    assert toy.judge(painted((toy.COLOURS["red"], *np.nonzero(ring)))).objects[0].shape is None
    (olive,) = toy.judge(painted(((120, 130, 20), slice(20, 44), slice(20, 44)))).objects
    assert (olive.colour, olive.shape, olive.motion) == (None, "square", "still")
    assert toy.judge(painted(((120, 130, 20), slice(20, 44), slice(20, 44)))).facts is None


def test_more_objects_than_the_world_has_are_counted():
    corners = [(slice(y, y + 18), slice(x, x + 18)) for y in (6, 40) for x in (6, 40)]
    colours = [toy.COLOURS[name] for name in ("red", "red", "blue", "green")]
    reading = toy.judge(painted(*((colour, *corner) for colour, corner in zip(colours, corners, strict=True))))
    assert [each.colour for each in reading.objects] == ["red", "red", "green", "blue"]
    assert reading.facts is None
    assert toy.judge(painted(*((colours[0], *corner) for corner in corners[:2]))).facts is None


def test_an_object_that_only_flashes_up_is_none():
    facts = toy.sample(6, (1,))
    clip = toy.render(facts, 6, (64, 64), 9).clip.copy()
    clip[:6] = np.median(clip, axis=(0, 1, 2))
    assert toy.judge(clip).count == 0


def test_an_object_missing_from_a_frame_is_still_one():
    facts = toy.sample(6, (2,))
    clip = toy.render(facts, 6, (64, 64), 9).clip.copy()
    clip[[0, 4]] = np.median(clip, axis=(0, 1, 2))
    assert toy.judge(clip).facts.objects == facts.objects


def seen(colour, shape, motion):
    return toy.Seen(colour, shape, motion, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), 0.5, 0.5)


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([("red", "star", "up"), ("blue", "heart", "left")], (1, 1, 1, 1)),
        ([("red", "star", "up")], (0.5, 0.5, 0.5, 0.5)),
        ([("red", "heart", "left"), ("blue", "star", "up")], (0, 1, 1, 1)),
        ([("red", "heart", "up"), ("blue", "star", "left")], (1, 0, 1, 1)),
        ([("red", "cross", "down"), ("pink", "heart", "left"), ("blue", "heart", "left")], (1, 0.5, 0.5, 2 / 3)),
        ([(None, None, None)], (0, 0, 0, 0.5)),
        ([], (0, 0, 0, 0)),
    ],
)
def test_scores_by_hand(objects, expected):
    facts = toy.Facts((toy.Object("red", "star", "up"), toy.Object("blue", "heart", "left")))
    scores = toy.compare(toy.Reading(tuple(seen(*each) for each in objects), None), facts)
    assert scores == pytest.approx(dict(zip(("colour", "shape", "motion", "count"), expected, strict=True)))


def test_motions_that_nobody_told_count_as_shown():
    facts = toy.Facts((toy.Object("red", "star"),))
    assert toy.compare(toy.Reading((seen("red", "star", "up"),), None), facts)["motion"] == 1


def test_batches_are_scored_one_by_one():
    facts = [toy.sample(seed) for seed in range(3)]
    clips = [toy.render(each, seed, (32, 48), 5).clip for seed, each in enumerate(facts)]
    batch = toy.score_batch(np.stack(clips), facts[::-1])
    for i, (clip, asked) in enumerate(zip(clips, facts[::-1], strict=True)):
        one = toy.score(clip, asked)
        assert list(batch) == list(one)
        assert all(batch[name].dtype == np.float32 and batch[name][i] == np.float32(one[name]) for name in one)
    with pytest.raises(InputError, match="2 clips for 3 facts"):
        toy.score_batch(clips[:2], facts)


def test_other_arrays_are_refused():
    with pytest.raises(InputError, match="dtype float32, expected uint8"):
        toy.judge(np.zeros((5, 64, 64, 3), np.float32))
