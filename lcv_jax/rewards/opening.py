"""From settings to rewards that are ready: models loaded, servers reached, everything that can be refused refused."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from lcv_jax.errors import InputError
from lcv_jax.rewards import hpsv3, videoalign
from lcv_jax.rewards.client import RemoteReward, reach
from lcv_jax.rewards.in_turn import InTurn
from lcv_jax.rewards.protocol import Device, Opened, Reward, RewardSettings
from lcv_jax.rewards.toy import toy_rewards

_TOY = {reward.name: reward for reward in toy_rewards()}
_MODELS: Mapping[str, Callable[[str, Device], Iterable[Reward]]] = {
    **dict.fromkeys(hpsv3.NAMES, hpsv3.load),
    **dict.fromkeys(videoalign.NAMES, videoalign.load),
}
NAMES = (*_TOY, *_MODELS)
"""Rewards that can be computed in this process."""


def open_rewards(settings: Sequence[RewardSettings]) -> tuple[Opened, ...]:
    """The rewards of a run, in the order of the settings. Rewards of one model share its weights.

    Raises InputError where there are none, two of one name, or only weights of 0; for unknown names, weights that are
    missing or damaged, and servers that cannot be reached or do not serve the name.
    """
    if not settings:
        raise InputError(f"rewards: none, expected at least one of {', '.join(NAMES)}, or of a server's")
    names = [each.name for each in settings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"rewards: {twice[0]!r} twice, expected each once; give it the sum of the weights")
    if not sum(each.weight for each in settings):
        raise InputError(f"rewards: the weights of {', '.join(names)} sum to 0, expected at least one above 0")
    here = [each for each in settings if each.url is None]
    for each in here:
        _check_local(each)
    rewards = {each.name: reach(each.url, each.name, each.timeout_s) for each in settings if each.url is not None}
    models: dict[tuple[Callable, str | None, Device], tuple[dict[str, Reward], threading.Lock]] = {}
    for each in here:  # last, as it takes longest
        if each.name in _TOY:
            loaded, lock = _TOY, threading.Lock()
        else:
            load = _MODELS[each.name]
            key = load, each.path, each.device
            if key not in models:
                models[key] = {one.name: one for one in load(each.path, each.device)}, threading.Lock()
            loaded, lock = models[key]
        rewards[each.name] = InTurn(loaded[each.name], lock, each.timeout_s)
    return tuple(Opened(each, rewards[each.name]) for each in settings)


def check_prompts(rewards: Sequence[Opened], prompts: Sequence[str]) -> None:
    """Raises InputError for prompts that one of the rewards can never judge; to be called before a run begins."""
    for each in rewards:
        each.reward.check(prompts)


def check_videos(rewards: Sequence[Opened], videos: int, shape: tuple[int, int, int], fps: float) -> None:
    """Raises InputError for a reward that sees too few frames of a video of `shape` (F, H, W), and for a reward server
    that takes less than a request of up to `videos` of them would send it; to be called before a run begins."""
    for each in rewards:
        picked = len(each.picks.indices(shape[0], fps))
        if picked < each.picks.needs:
            raise InputError(
                f"reward {each.name!r}: sees {picked} frames of {shape[0]}, expected at least {each.picks.needs} to "
                "score a video; make longer videos, raise most_frames, or leave this reward out"
            )
        if isinstance(each.reward, RemoteReward):
            count = min(each.settings.batch, videos)
            what = f"{count} videos of {shape[1]}x{shape[2]}x{shape[0]}"
            each.reward.check_size(count * picked * shape[1] * shape[2] * 3, what)


def _check_local(settings: RewardSettings) -> None:
    name = settings.name
    if name not in NAMES:
        raise InputError(f"reward {name!r}: expected one of {', '.join(NAMES)}, or the url of a server that has it")
    if name in _MODELS and settings.path is None:
        raise InputError(
            f"reward {name}: needs the folder of its weights (path), or a server (url); see docs/rewards.md"
        )
    if name in _TOY and settings.path is not None:
        raise InputError(f"reward {name}: path {settings.path}, but it has no weights; leave it out")
