"""Which sets of settings make a run, and which are refused with a line."""

import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.rewards.opening import check_prompts, check_videos, open_rewards
from lcv_jax.rewards.protocol import RewardSettings


def test_rewards_in_the_order_of_the_settings():
    settings = (RewardSettings("toy-text", weight=2.0), RewardSettings("toy-visual", weight=0.0))
    opened = open_rewards(settings)
    assert tuple(each.settings for each in opened) == settings
    assert [each.reward.name for each in opened] == ["toy-text", "toy-visual"]
    assert opened[1].reward([np.zeros((5, 32, 32, 3), np.uint8)], ["anything"]) == [0]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], "rewards: none, expected at least one of toy-visual, toy-motion, toy-text"),
        ([RewardSettings("toy-text"), RewardSettings("toy-text")], "'toy-text' twice, expected each once"),
        (
            [RewardSettings("toy-text", weight=0), RewardSettings("toy-motion", weight=0.0)],
            "the weights of toy-text, toy-motion sum to 0, expected at least one above 0",
        ),
        ([RewardSettings("beauty")], "reward 'beauty': expected one of toy-visual, .*, or the url of a server"),
        ([RewardSettings("toy-text", path="x")], "reward toy-text: path x, but it has no weights; leave it out"),
        ([RewardSettings("hpsv3-general")], r"hpsv3-general: needs the folder of its weights \(path\), or a server"),
    ],
)
def test_sets_that_make_no_run(settings, told):
    with pytest.raises(InputError, match=told):
        open_rewards(settings)


def test_prompts_are_checked_by_every_reward():
    opened = open_rewards([RewardSettings("toy-visual"), RewardSettings("toy-text")])
    check_prompts(opened, ["A red circle moves up."])
    with pytest.raises(InputError, match="caption 'a cat'"):
        check_prompts(opened, ["a cat"])


def test_videos_that_are_too_short_for_a_reward_are_told_before_a_run():
    (opened,) = open_rewards([RewardSettings("toy-motion")])
    check_videos([opened], 4, (5, 64, 64), 15.0)
    with pytest.raises(InputError, match=r"'toy-motion': sees 4 frames of 4, expected at least 5"):
        check_videos([opened], 4, (4, 64, 64), 15.0)
    (few,) = open_rewards([RewardSettings("toy-motion", most_frames=3)])
    with pytest.raises(InputError, match="sees 3 frames of 13"):
        check_videos([few], 4, (13, 64, 64), 15.0)
