"""Long videos: every segment is the continuation that one would make by hand, and nothing piles up."""

import gc
import weakref

import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.sample.long_video import Tail

RUN = {"size": (32, 48), "num_frames": 9, "steps": 2, "max_text_tokens": 16, "posterior": "mode"}
LONG = {**RUN, "num_cond_frames": 5}


@pytest.fixture(scope="module")
def three(pipe):
    """Three segments with a prompt each."""
    return list(pipe.long_video(["a cat", "a dog", "a cat"], 3, seed=4, **LONG))


def test_segments_hold_only_what_is_new(three):
    assert [(s.index, s.prompt) for s in three] == [(0, "a cat"), (1, "a dog"), (2, "a cat")]
    assert [s.frames.shape for s in three] == [(1, 9, 32, 48, 3), (1, 4, 32, 48, 3), (1, 4, 32, 48, 3)]
    assert all(s.frames.dtype == np.uint8 and s.latents.shape == (1, 3, 4, 6, 16) for s in three)


def test_the_first_segment_is_text_to_video_and_the_next_continues_its_frames(pipe, three):
    first = pipe.text_to_video("a cat", seed=4, **RUN)
    np.testing.assert_array_equal(three[0].frames, first)
    np.testing.assert_array_equal(three[0].tail.frames, first[0, -5:])
    second = pipe.continue_video(first[0], "a dog", seed=5, **LONG)
    np.testing.assert_array_equal(three[1].frames, second[:, 5:])
    third = pipe.continue_video(second[0], "a cat", seed=6, **LONG)
    np.testing.assert_array_equal(three[2].frames, third[:, 5:])


def test_a_stored_tail_goes_on_the_same(pipe, three):
    tail = three[0].tail
    stored = Tail(tail.index, tail.frames.copy())
    rest = list(pipe.long_video(["a cat", "a dog", "a cat"], 3, seed=4, start=stored, **LONG))
    assert [s.index for s in rest] == [1, 2]
    for ours, other in zip(rest, three[1:], strict=True):
        np.testing.assert_array_equal(ours.latents, other.latents)


def test_options_of_each_segment(pipe, three):
    noise = np.random.default_rng(0).normal(size=(2, 1, 3, 4, 6, 16)).astype(np.float32)
    own = {"seed": [4, 9], "negative_prompt": ["", "grey"], "latents": noise[:, 0]}
    first, second = pipe.long_video("a cat", 2, **own, **LONG)
    np.testing.assert_array_equal(first.frames, pipe.text_to_video("a cat", latents=noise[0], **RUN))
    options = {"seed": 9, "negative_prompt": "grey", "latents": noise[1]}
    by_hand = pipe.continue_video(first.frames[0], "a cat", **options, **LONG)
    np.testing.assert_array_equal(second.frames, by_hand[:, 5:])


def test_a_video_or_an_image_to_start_from(pipe, three):
    video = three[0].frames[0]
    first, second = pipe.long_video("a dog", 2, video=video, seed=5, **LONG)
    np.testing.assert_array_equal(first.frames, three[1].frames)
    assert second.frames.shape[1] == 4
    (first,) = pipe.long_video("a dog", 1, image=video[0], **LONG)
    np.testing.assert_array_equal(first.frames, pipe.image_to_video(video[0], "a dog", **RUN))


def test_a_segment_is_let_go_before_the_next_one_is_made(pipe):
    held, alive = [], []

    def on_step(step):
        if step.index == 0:
            gc.collect()
            alive.append(sum(ref() is not None for ref in held))

    for segment in pipe.long_video("a cat", 3, on_step=on_step, **LONG):
        held += [weakref.ref(owner(array)) for array in (segment.frames, segment.latents)]
        del segment
    assert len(held) == 6
    assert alive == [0, 0, 0]


def owner(array):
    """The array that holds the memory of a view."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@pytest.mark.slow
@pytest.mark.parametrize(("refine", "rate"), [("spatial", 1), ("spatio-temporal", 2)])
def test_refined_segments_share_their_frames(pipe, three, refine, rate):
    first, second = pipe.long_video(["a cat", "a dog"], 2, seed=4, refine=refine, refine_size=(64, 64), **LONG)
    options = {"size": (64, 64), "max_text_tokens": 16, "posterior": "mode", "spatial_only": refine == "spatial"}
    by_hand = pipe.refine(three[0].frames[0], "", seed=4, **options)
    np.testing.assert_array_equal(first.frames, by_hand)
    window = np.concatenate([three[0].tail.frames, three[1].frames[0]])
    shared = {"condition": by_hand[0], "num_cond_frames": 5 * rate}
    np.testing.assert_array_equal(second.frames, pipe.refine(window, "", seed=5, **shared, **options)[:, 5 * rate :])
    assert (first.frames.shape, second.frames.shape) == ((1, 9 * rate, 64, 64, 3), (1, 4 * rate, 64, 64, 3))
    stored = first.tail
    (again,) = pipe.long_video(["a cat", "a dog"], 2, seed=4, refine=refine, refine_size=(64, 64), start=stored, **LONG)
    np.testing.assert_array_equal(again.frames, second.frames)


BLANK = np.zeros((5, 32, 48, 3), np.uint8)


@pytest.mark.parametrize(
    ("prompts", "count", "options", "message"),
    [
        ("a", 0, {}, "num_segments=0"),
        (["a", "b"], 3, {}, "2 prompts for num_segments=3: expected one, or one for each"),
        ([], 2, {}, "0 prompts for num_segments=2"),
        (3, 2, {}, "prompts=3: expected a string"),
        ("a", 2, {"output": "latents"}, "hold frames and latents"),
        ("a", 2, {"seed": 2**32 - 1}, "the last seed"),
        ("a", 2, {"seed": [1]}, "1 values of seed"),
        ("a", 2, {"latents": np.zeros((1, 3, 4, 6, 16))}, r"expected \(2, T, h, w, C\)"),
        ("a", 2, {"num_cond_frames": 9}, "leaves nothing to generate"),
        ("a", 2, {"num_cond_frames": 4}, "4 frames cannot be encoded"),
        ("a", 1, {"num_cond_frames": "5"}, "num_cond_frames='5'"),
        ("a", 2, {"image": BLANK[0], "video": BLANK}, "image and video are both given"),
        ("a", 2, {"video": BLANK[:3]}, "3 frames, fewer than num_cond_frames=5"),
        ("a", 2, {"refine": "on"}, "refine='on'"),
        ("a", 2, {"refine": "spatial", "refine_size": (32, 48)}, "multiples of 64"),
        ("a", 2, {"num_frames": 4001, "size": (16384, 16384)}, "device memory"),
        ("a", 2, {"start": Tail(2, BLANK)}, "the index of start=2"),
        ("a", 2, {"start": Tail(0, BLANK[1:])}, r"start holds frames of shape \(4, 32, 48, 3\)"),
        ("a", 2, {"start": Tail(0, BLANK), "refine": "spatial", "refine_size": (64, 64)}, "no refined frames"),
    ],
)
def test_bad_calls_raise_before_the_first_segment(pipe, prompts, count, options, message):
    with pytest.raises(InputError, match=message):
        pipe.long_video(prompts, count, **(LONG | options))
