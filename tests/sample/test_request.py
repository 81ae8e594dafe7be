"""Requests that run together are what each is alone."""

import dataclasses

import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.sample.options import Options
from lcv_jax.sample.request import Request, continuation, filled_up, image_to_video, text_to_video, together

SMALL = {"size": (32, 32), "num_frames": 9, "steps": 1, "guidance": 1, "max_text_tokens": 8, "output": "latents"}


def clip(seed: int, frames: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 32, 3), dtype=np.uint8)


def asked(seed: int, video: np.ndarray | None = None, **given) -> Request:
    options = Options(**SMALL | {"seed": seed, "negative_prompt": f"no {seed}"} | given)
    how = {"num_cond_frames": 5, "kv_cache": True, "enhance_hf": False}
    return continuation(clip(seed) if video is None else video, f"{seed}", options, **how)


@pytest.mark.parametrize("posterior", ["mode", "sample"])
def test_each_keeps_its_condition_and_its_seed(pipe, posterior):
    each = [asked(3, posterior=posterior), asked(7, posterior=posterior)]
    both = pipe.run(together(each))
    assert np.abs(both[0, :2] - both[1, :2]).max() > 0.1
    np.testing.assert_allclose(both[1], pipe.run(each[1])[0], atol=1e-4)


def test_what_is_joined():
    picture = together([image_to_video(clip(i, 1)[0], ["a", "b"], Options(seed=i)) for i in (0, 4)])
    assert picture.prompts == ("a", "b", "a", "b")
    assert picture.options.seeds(4) == (0, 1, 4, 5)
    np.testing.assert_array_equal(picture.condition.frames[:, 0], [clip(i, 1)[0] for i in (0, 0, 4, 4)])
    assert together([asked(1), asked(2)]).options.negative_prompts(2) == ("no 1", "no 2")
    assert together([text_to_video("a", Options(seed=1))]).condition is None


def test_conditions_are_filled_up_for_a_mesh():
    filled = filled_up(together([asked(1), asked(2), asked(3)]), 4)
    assert filled.prompts == ("1", "2", "3", "3")
    np.testing.assert_array_equal(filled.condition.frames[3], clip(3))
    alike = filled_up(dataclasses.replace(asked(1), prompts=("a", "b", "c")), 4)
    assert alike.condition.frames.shape[0] == 1


@pytest.mark.parametrize(
    ("requests", "match"),
    [
        ([], "0 requests to run together: expected at least one"),
        ([asked(1, latents=np.zeros((1, 3, 4, 4, 16)))], "and seeds instead of latents"),
        ([asked(1), asked(2, steps=2)], "differ in size, options or condition"),
        ([asked(1), asked(2, clip(2, 9)[:, :16])], "differ in size, options or condition"),
        ([asked(1), text_to_video("a", Options(**SMALL))], "differ in size, options or condition"),
    ],
)
def test_what_is_not_alike_is_refused(requests, match):
    with pytest.raises(InputError, match=match):
        together(requests)
