import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.sample.options import Options


def test_published_defaults():
    o = Options()
    assert (o.run_steps, o.run_guidance, o.active_loras) == (50, 4.0, ())
    d = Options(distilled=True)
    assert (d.run_steps, d.run_guidance, d.active_loras) == (16, 1.0, ("cfg_step",))
    assert o.num_frames == 93
    assert o.pixel_size((480, 832), 16) == (480, 832)


def test_what_is_given_wins():
    o = Options(distilled=True, steps=8, guidance=2, loras=["mine", "cfg_step"], size=(64, 96), resolution=None)
    assert (o.run_steps, o.run_guidance) == (8, 2.0)
    assert o.active_loras == ("cfg_step", "mine")
    assert o.pixel_size((480, 832), 16) == (64, 96)


def test_size_follows_the_input_in_its_bucket():
    assert Options(resolution="720p").pixel_size((832, 480), 16) == (1248, 736)


def test_one_value_or_one_each():
    o = Options(seed=5, negative_prompt="bad")
    assert o.seeds(3) == (5, 6, 7)
    assert o.negative_prompts(2) == ("bad", "bad")
    each = Options(seed=[9, 3], negative_prompt=["a", "b"])
    assert each.seeds(2) == (9, 3)
    assert each.negative_prompts(2) == ("a", "b")
    with pytest.raises(InputError, match="2 values of seed for 3 prompts"):
        each.seeds(3)
    with pytest.raises(InputError, match="2 values of negative_prompt for 1 prompts"):
        each.negative_prompts(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"posterior": "mean"}, "posterior='mean': expected one of 'sample', 'mode'"),
        ({"output": "video"}, "output='video'"),
        ({"resolution": "1080p"}, "resolution='1080p'"),
        ({"resolution": "480p", "size": (64, 64)}, "give one of them"),
        ({"num_frames": 0}, "num_frames=0"),
        ({"num_frames": 5.0}, r"num_frames=5\.0: expected a whole number of at least 1"),
        ({"steps": 2.5}, r"steps=2\.5"),
        ({"steps": 0}, "steps=0"),
        ({"steps": True}, "steps=True"),
        ({"max_text_tokens": 8.0}, r"max_text_tokens=8\.0"),
        ({"guidance": 0.5}, r"guidance=0\.5"),
        ({"guidance": float("nan")}, "guidance=nan"),
        ({"guidance": float("inf")}, "guidance=inf"),
        ({"guidance": "4"}, "guidance='4'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "at least 0 and below 4294967296"),
        ({"seed": [0, 2.0]}, r"seed=2\.0"),
        ({"seed": "7"}, "seed='7'"),
        ({"size": (32.0, 48)}, r"a side of size=32\.0"),
        ({"size": 32}, r"size=32: expected \(height, width\)"),
        ({"size": (32, 48, 3)}, r"expected \(height, width\)"),
        ({"size": "ab"}, "size='ab'"),
        ({"loras": [3]}, r"loras=\[3\]: expected a string or a list of strings"),
        ({"negative_prompt": None}, "negative_prompt=None"),
        ({"distilled": "no"}, "distilled='no': expected one of False, True"),
        ({"on_step": 3}, "on_step=3"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_types_become_plain():
    o = Options(seed=np.int64(3), steps=np.int32(4), size=np.array([32, 48]), guidance=np.float32(2), loras="mine")
    assert (o.seed, o.steps, o.size, o.guidance, o.loras) == (3, 4, (32, 48), 2.0, ("mine",))
    assert [type(v) for v in (o.seed, o.steps, *o.size, o.guidance)] == [int, int, int, int, float]
    assert Options(seed=np.arange(2)).seeds(2) == (0, 1)


def test_the_last_seed_counts_too():
    with pytest.raises(InputError, match="last seed=4294967296"):
        Options(seed=2**32 - 1).seeds(2)


def test_sizes_that_do_not_divide_raise():
    with pytest.raises(InputError, match="100"):
        Options(size=(100, 64)).pixel_size((1, 1), 16)


def test_unknown_options_raise():
    with pytest.raises(TypeError, match="num_step"):
        Options(num_step=4)
