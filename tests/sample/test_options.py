import pytest

from lcv_jax.errors import InputError
from lcv_jax.sample.options import Options


def test_published_defaults():
    o = Options()
    assert (o.run_steps, o.run_guidance, o.active_loras) == (50, 4.0, ())
    d = Options(distilled=True)
    assert (d.run_steps, d.run_guidance, d.active_loras) == (16, 1.0, ("cfg_step",))
    assert o.frame_count() == 93
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
    assert o.seeds(3) == [5, 6, 7]
    assert o.negative_prompts(2) == ["bad", "bad"]
    each = Options(seed=[9, 3], negative_prompt=["a", "b"])
    assert each.seeds(2) == [9, 3]
    assert each.negative_prompts(2) == ["a", "b"]
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
        ({"guidance": 0.5}, r"guidance=0\.5"),
        ({"guidance": float("nan")}, "guidance=nan"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(InputError, match=message):
        Options(**options)


def test_sizes_that_do_not_divide_raise():
    with pytest.raises(InputError, match="100"):
        Options(size=(100, 64)).pixel_size((1, 1), 16)


def test_no_prompt_raises():
    with pytest.raises(InputError, match="no prompt"):
        Options().prompts([])


def test_unknown_options_raise():
    with pytest.raises(TypeError, match="num_step"):
        Options(num_step=4)
