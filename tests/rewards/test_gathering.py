"""All rewards at once, with time limits and retries: what is slow, fails or makes no sense is NaN, counted and told."""

import dataclasses
import re
import threading
from collections.abc import Callable

import numpy as np
import pytest

from lcv_jax.errors import InputError
from lcv_jax.rewards import gathering
from lcv_jax.rewards.gathering import gather
from lcv_jax.rewards.protocol import ALL_FRAMES, FramePick, Opened, RewardFailed, RewardSettings

PROMPTS = [f"prompt {i}" for i in range(6)]


@dataclasses.dataclass(frozen=True)
class Counted:
    """A reward that answers call i with answer(i, frames), and keeps what it was asked."""

    answer: Callable[[int, list[np.ndarray]], object]
    name: str = "counted"
    picks: FramePick = ALL_FRAMES
    calls: list = dataclasses.field(default_factory=list)

    def check(self, prompts):
        pass

    def __call__(self, frames, prompts):
        self.calls.append(list(prompts))
        return self.answer(len(self.calls) - 1, frames)

    def opened(self, **settings) -> Opened:
        return Opened(RewardSettings(**{"name": self.name, "timeout_s": 30.0} | settings), self)


def brightness(call: int, frames: list[np.ndarray]) -> np.ndarray:
    return np.array([video.mean() for video in frames])


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch):
    monkeypatch.setattr(gathering, "_FIRST_WAIT", 0.001)


@pytest.fixture
def videos() -> np.ndarray:
    """Six of 5 frames; video i has the level 10 i."""
    return np.broadcast_to(10 * np.arange(6, dtype=np.uint8)[:, None, None, None, None], (6, 5, 8, 8, 3))


def whole(scored) -> np.ndarray:
    """Which pairs of videos have all their scores."""
    return np.isfinite(scored.scores).all(axis=0).reshape(-1, 2).all(axis=1)


def test_scores_in_the_order_of_settings_and_videos(videos):
    other = Counted(lambda call, frames: -brightness(call, frames), "other")
    scored = gather([Counted(brightness).opened(), other.opened(weight=0.5)], videos, PROMPTS)
    assert scored.scores.dtype == np.float32
    np.testing.assert_array_equal(scored.scores, [np.arange(6) * 10, np.arange(6) * -10])
    assert (scored.names, scored.failed) == (("counted", "other"), {"counted": 0, "other": 0})
    assert set(scored.seconds) == {"counted", "other"}


def test_videos_may_differ_in_size(videos):
    given = [videos[0], np.full((1, 4, 6, 3), 7, np.uint8)]
    np.testing.assert_array_equal(gather([Counted(brightness).opened()], given, PROMPTS[:2]).scores, [[0, 7]])


def test_requests_hold_no_more_than_a_batch_and_prompts_go_with_their_videos(videos):
    reward = Counted(brightness)
    scored = gather([reward.opened(batch=4)], videos, PROMPTS)
    assert reward.calls == [PROMPTS[:4], PROMPTS[4:]]
    np.testing.assert_array_equal(scored.scores[0], np.arange(6) * 10)


def test_only_picked_frames_are_handed_over():
    video = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((8, 8, 3), np.uint8)
    reward = Counted(brightness, picks=FramePick(rate=2.0))
    assert gather([reward.opened()], [video], ["a"], fps=15.0).scores == pytest.approx(np.mean([0, 10, 19, 29]))
    assert gather([reward.opened()], [video], ["a"], fps=30.0).scores == pytest.approx(np.mean([0, 29]))


def test_all_rewards_work_at_the_same_time(videos):
    together = threading.Barrier(4, timeout=20)

    def answer(call, frames):
        together.wait()
        return brightness(call, frames)

    scored = gather([Counted(answer, f"reward {k}").opened() for k in range(4)], videos, PROMPTS)
    assert sum(scored.failed.values()) == 0


def test_a_reward_that_recovers_loses_nothing(videos):
    def answer(call, frames):
        if call < 2:
            raise RewardFailed("busy")
        return brightness(call, frames)

    reward = Counted(answer)
    scored = gather([reward.opened(retries=2)], videos, PROMPTS)
    np.testing.assert_array_equal(scored.scores[0], np.arange(6) * 10)
    assert len(reward.calls) == 3


def test_a_dead_reward_costs_its_retries_once_and_leaves_the_others_alone(videos, caplog):
    def answer(call, frames):
        raise RuntimeError("out of\nmemory")

    dead, well = Counted(answer, "dead"), Counted(brightness, "well")
    scored = gather([dead.opened(batch=2, retries=2), well.opened()], videos, PROMPTS)
    assert len(dead.calls) == 3
    assert scored.failed == {"dead": 6, "well": 0}
    assert np.isnan(scored.scores[0]).all()
    np.testing.assert_array_equal(scored.scores[1], np.arange(6) * 10)
    assert [record.getMessage() for record in caplog.records] == [
        "reward dead: no score for 2 videos: RuntimeError: out of memory"
    ]


def test_a_slow_reward_is_given_up(videos, caplog):
    released = threading.Event()

    def answer(call, frames):
        released.wait(20)
        return brightness(call, frames)

    reward = Counted(answer)
    scored = gather([reward.opened(timeout_s=0.05, retries=1)], videos, PROMPTS)
    released.set()
    assert (scored.failed, len(reward.calls)) == ({"counted": 6}, 2)
    assert "no answer within 0.05 s" in caplog.text


@pytest.mark.parametrize("nothing", [np.nan, np.inf, -np.inf])
def test_videos_without_a_finite_score_are_asked_again_alone_and_drop_their_group(videos, nothing, caplog):
    def answer(call, frames):
        scores = brightness(call, frames)
        return np.where(scores == 30, nothing, scores)

    reward = Counted(answer)
    scored = gather([reward.opened(retries=2)], videos, PROMPTS)
    np.testing.assert_array_equal(scored.scores[0], [0, 10, 20, np.nan, 40, 50])
    np.testing.assert_array_equal(whole(scored), [True, False, True])
    assert reward.calls == [PROMPTS, [PROMPTS[3]], [PROMPTS[3]]]
    assert "no score for 1 videos: gave what is no finite number" in caplog.text


def test_a_score_that_comes_on_the_second_try_counts(videos):
    def answer(call, frames):
        return np.where((call == 0) & (np.arange(len(frames)) == 1), np.nan, brightness(call, frames))

    scored = gather([Counted(answer).opened(retries=1)], videos[:2], PROMPTS[:2])
    np.testing.assert_array_equal(scored.scores[0], [0, 10])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (np.zeros(5), r"gave float64 \(5,\), expected 6 numbers"),
        (np.zeros((6, 1)), r"gave float64 \(6, 1\), expected 6 numbers"),
        (["a"] * 6, "gave <U1"),
        (None, r"gave object \(\), expected 6 numbers"),
    ],
)
def test_what_are_no_scores_counts_as_failed(videos, caplog, answer, told):
    scored = gather([Counted(lambda call, frames: answer).opened(retries=0)], videos, PROMPTS)
    assert scored.failed == {"counted": 6}
    assert re.search(told, caplog.text)


def test_bad_input_to_a_reward_is_not_repeated_and_the_next_request_goes_on(videos, caplog):
    def answer(call, frames):
        if call == 0:
            raise InputError("caption 'x': not a sentence")
        return brightness(call, frames)

    reward = Counted(answer)
    scored = gather([reward.opened(batch=2, retries=3)], videos, PROMPTS)
    np.testing.assert_array_equal(whole(scored), [False, True, True])
    assert len(reward.calls) == 3
    assert "no score for 2 videos: caption 'x': not a sentence" in caplog.text


@pytest.mark.parametrize(
    ("frames", "prompts", "told"),
    [
        (np.zeros((2, 5, 8, 8, 3), np.uint8), ["a"], "2 videos for 1 prompts"),
        (np.zeros((0, 5, 8, 8, 3), np.uint8), [], "1 rewards, 0 videos"),
        (np.zeros((1, 5, 8, 8, 3), np.float32), ["a"], r"video 0 is float32 \(5, 8, 8, 3\), expected uint8"),
        (np.zeros((1, 8, 8, 3), np.uint8), ["a"], r"video 0 is uint8 \(8, 8, 3\)"),
        (np.zeros((1, 0, 8, 8, 3), np.uint8), ["a"], r"video 0 is uint8 \(0, 8, 8, 3\)"),
    ],
)
def test_input_that_does_not_fit_together(frames, prompts, told):
    with pytest.raises(InputError, match=told):
        gather([Counted(brightness).opened()], frames, prompts)


def test_no_rewards(videos):
    with pytest.raises(InputError, match="0 rewards, 6 videos"):
        gather([], videos, PROMPTS)
