"""What the tests of GRPO runs share: a config over the golden checkpoint, and rewards of any videos."""

import dataclasses
import json
import pathlib

import numpy as np

import devices
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.models.remat import Remat
from lcv_jax.objectives.grpo import GRPO
from lcv_jax.rewards.protocol import ALL_FRAMES, FramePick, Opened, RewardSettings
from lcv_jax.sample.rollout import Exploration
from lcv_jax.train.grpo import GRPOTraining
from lcv_jax.train.grpo_config import GRPOConfig, PromptConfig, RolloutConfig, ShownConfig
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.rounds import Rounds

CHECKPOINT = devices.ROOT / "tests/goldens/checkpoint"
CHANGES = ("seconds", "tokens_per_second", "tflops", "mfu")
"""What begins the names of metrics that differ from run to run."""


def config(**changes) -> GRPOConfig:
    """Two prompts of two videos of 5 frames, three steps, two of which may be stochastic."""
    base = GRPOConfig(
        model=DiTConfig.from_json(json.loads((CHECKPOINT / "dit/config.json").read_text())),
        init=str(CHECKPOINT),
        checkpoint=str(CHECKPOINT),
        prompts=PromptConfig("toy:5", tokens=6, negative="bad"),
        rewards=(RewardSettings("toy-visual"), RewardSettings("toy-text", weight=2.0)),
        rollout=RolloutConfig(sizes=((32, 32),), frames=5, steps=3, prompts=2, group=2),
        objective=GRPO(Exploration(steps=2), beta=0.1),
        lora=LoRAConfig(rank=2, alpha=2.0),
        # A large epsilon, because Adam turns the rounding of gradients near 0 into whole steps.
        optimizer=AdamW(rate=1e-2, warmup=0, epsilon=1e-3),
        steps=2,
        save_every=1,
        log_every=1,
        dtype="float32",
        mesh="data=1",
        remat=Remat.NONE,
        samples=ShownConfig(every=2, count=3),
    )
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass
class Contrast:
    """Scores how far a video's pixels spread. unscored: prompts that get none. told: what it was asked and said."""

    name: str = "contrast"
    unscored: tuple[str, ...] = ()
    picks: FramePick = ALL_FRAMES
    told: list = dataclasses.field(default_factory=list)

    def check(self, prompts):
        pass

    def __call__(self, frames, prompts):
        scores = [np.nan if one in self.unscored else video.std() for video, one in zip(frames, prompts, strict=True)]
        self.told.append((list(prompts), np.float32(scores)))
        return np.float32(scores)


def rounds(config: GRPOConfig, *rewards, folder: pathlib.Path | None = None):
    """A run's parts: (training, given, rounds), with these rewards instead of the config's."""
    training = GRPOTraining.of(config)
    if rewards:
        opened = tuple(Opened(RewardSettings(one.name, retries=0), one) for one in rewards)
        training = dataclasses.replace(training, rewards=opened)
    given = training.given()
    return training, given, Rounds(training, given, folder, lambda *_: None)


def lines(run: pathlib.Path) -> list[dict]:
    """A run's metrics, without those that differ."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in one.items() if not name.startswith(CHANGES)} for one in records]
