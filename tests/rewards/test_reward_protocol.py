"""Settings that are out of range, frames that are picked, groups that are kept."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_jax.errors import InputError
from lcv_jax.rewards.protocol import FramePick, Opened, RewardSettings
from lcv_jax.rewards.toy import toy_rewards


@pytest.mark.parametrize(
    ("pick", "frames", "expected"),
    [
        (FramePick(), 5, [0, 1, 2, 3, 4]),
        (FramePick(most=3), 5, [0, 2, 4]),
        (FramePick(most=1), 5, [0]),
        # 93 frames are 6.2 seconds: 12.4 frames at 2 a second.
        (FramePick(rate=2.0, multiple=2, least=4), 93, np.round(np.linspace(0, 92, 12))),
        # 13 frames are 0.87 seconds: 1.7 frames, but at least 4.
        (FramePick(rate=2.0, multiple=2, least=4), 13, [0, 4, 8, 12]),
        (FramePick(rate=2.0, multiple=2, least=4), 3, [0, 2]),
        (FramePick(rate=2.0, multiple=2, least=4), 1, [0]),
        # 38 frames are 2.53 seconds: 5.07 frames, nearer to 6 than to 4.
        (FramePick(rate=2.0, multiple=2, least=4), 38, np.round(np.linspace(0, 37, 6))),
        (FramePick(rate=30.0), 4, [0, 1, 2, 3]),
    ],
)
def test_picked_frames(pick, frames, expected):
    np.testing.assert_array_equal(pick.indices(frames, 15.0), expected)


@given(
    st.builds(
        FramePick,
        rate=st.none() | st.floats(0.1, 60),
        multiple=st.integers(1, 4),
        least=st.integers(1, 8),
        most=st.none() | st.integers(1, 20),
    ),
    st.integers(1, 200),
    st.floats(1, 60),
)
def test_picked_frames_are_of_the_video_and_ascend(pick, frames, fps):
    indices = pick.indices(frames, fps)
    assert 1 <= len(indices) <= min(frames, pick.most or frames)
    assert indices[0] >= 0
    assert indices[-1] <= frames - 1
    assert (np.diff(indices) > 0).all()


@pytest.mark.parametrize("wrong", [{"rate": 0.0}, {"rate": "2"}, {"multiple": 0}, {"least": 1.5}, {"most": 0}])
def test_frames_cannot_be_picked_so(wrong):
    with pytest.raises(InputError, match="expected a rate above 0 or None, and whole numbers above 0"):
        FramePick(**wrong)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"name": ""}, "name='': expected a name"),
        ({"weight": -1.0}, "weight=-1.0: expected a number from 0"),
        ({"weight": float("nan")}, "weight=nan: expected a number"),
        ({"timeout_s": 0}, "timeout_s=0: expected seconds above 0"),
        ({"retries": -1}, "retries=-1: expected a whole number from 0"),
        ({"retries": 1.5}, "retries=1.5: expected a whole number"),
        ({"batch": 0}, "batch=0: expected a whole number above 0"),
        ({"most_frames": 0}, "most_frames=0: expected a whole number above 0, or None"),
        ({"url": "http://a:1", "path": "b"}, "path='b': expected None, as the url names a server"),
    ],
)
def test_settings_out_of_range(wrong, expected):
    with pytest.raises(InputError, match=expected):
        RewardSettings(**{"name": "toy-text"} | wrong)


@pytest.mark.parametrize(("settings", "own", "most"), [(None, None, None), (4, None, 4), (4, 3, 3), (2, 3, 2)])
def test_settings_can_only_lower_the_number_of_frames(settings, own, most):
    reward = dataclasses.replace(toy_rewards()[0], picks=FramePick(rate=2.0, most=own))
    opened = Opened(RewardSettings(reward.name, most_frames=settings), reward)
    assert opened.picks == FramePick(rate=2.0, most=most)
