"""What a run of GRPO is made of."""

import dataclasses

from lcv_jax.errors import InputError
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.lora import LoRAConfig
from lcv_jax.models.remat import Remat
from lcv_jax.objectives.grpo import GRPO, check_weights
from lcv_jax.rewards.protocol import RewardSettings
from lcv_jax.sample.defaults import NEGATIVE_PROMPT
from lcv_jax.train.config import RunConfig, SparseConfig


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """source: a file with a prompt a line, or .jsonl with objects {"prompt": ...}; or toy:COUNT. tokens: that they are
    padded to. negative: that guidance leads away from. seed: of their order, and of the toy world."""

    source: str
    tokens: int = 512
    negative: str = NEGATIVE_PROMPT
    seed: int = 0

    def __post_init__(self):
        if self.tokens < 1 or self.seed < 0:
            raise InputError(
                f"prompts, tokens={self.tokens}, seed={self.seed}: expected at least 1 token and a seed from 0"
            )


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """The videos of one iteration: `prompts` groups of `group`.

    sizes: (height, width) in pixels; iterations take them by turns. frames: 4n + 1. steps: of the base schedule, with
    the checkpoint's shift. guidance: CFG-zero*, 1 is none. parts: that the videos are made in, one behind the other,
    for less memory. fps: frames a second that rewards are told.
    """

    sizes: tuple[tuple[int, int], ...] = ((480, 832),)
    frames: int = 93
    steps: int = 16
    guidance: float = 4.0
    prompts: int = 64
    group: int = 4
    parts: int = 1
    fps: float = 15.0

    def __post_init__(self):
        if self.group < 2:
            raise InputError(
                f"rollout, group={self.group}: expected at least 2 videos of each prompt, as they are compared with "
                "one another"
            )
        for name in ("frames", "steps", "prompts", "parts"):
            if getattr(self, name) < 1:
                raise InputError(f"rollout, {name}={getattr(self, name)}: expected at least 1")
        if not 0 < self.fps < float("inf"):
            raise InputError(f"rollout, fps={self.fps}: expected a number above 0")
        if not 1 <= self.guidance < float("inf"):
            raise InputError(f"rollout, guidance={self.guidance}: expected a number from 1, which is none")
        if not self.sizes:
            raise InputError("rollout, sizes: none given, expected at least one (height, width)")


@dataclasses.dataclass(frozen=True)
class ShownConfig:
    """Videos of rollouts that are kept, with their rewards. every: iterations; 0 keeps none. count: how many."""

    every: int = 0
    count: int = 4

    def __post_init__(self):
        if self.every < 0 or self.count < 0:
            raise InputError(f"samples, every={self.every}, count={self.count}: expected numbers from 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GRPOConfig(RunConfig):
    """A run that trains a LoRA of the transformer with rewards; a step of it is an iteration.

    model: the DiT, whose weights `init` has. checkpoint: where the autoencoder, text encoder, tokenizer and schedule
    are. lora: what is trained. init_lora: a LoRA file, or RUN/checkpoints/STEP, that it begins with. prompts, rollout:
    what is made in an iteration. rewards: their weights are those of the advantages' sum. objective: what is minimised.
    updates: of the LoRA by one rollout, each by all of its videos; from the second one on they are not the policy's
    own. patience: iterations in a row without a single group that has all its rewards, after which the run ends.
    attention, remat: as of `TrainConfig`. samples: videos to be kept.
    """

    trains = "dit"
    model: DiTConfig
    checkpoint: str
    prompts: PromptConfig
    rewards: tuple[RewardSettings, ...]
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)
    objective: GRPO = dataclasses.field(default_factory=GRPO)
    lora: LoRAConfig = dataclasses.field(default_factory=LoRAConfig)
    init_lora: str | None = None
    updates: int = 1
    patience: int = 5
    attention: SparseConfig | None = None
    remat: Remat = Remat.FULL
    samples: ShownConfig = dataclasses.field(default_factory=ShownConfig)
    ema_decay: float | None = None

    def __post_init__(self):
        if not self.rewards:
            raise InputError("rewards: none given, expected at least one, such as RewardSettings('toy-text')")
        check_weights([each.weight for each in self.rewards])
        steps = self.objective.exploration.steps
        if steps > self.rollout.steps:
            raise InputError(
                f"objective.exploration.steps={steps} of {self.rollout.steps} steps of sampling: expected at most as "
                "many"
            )
        for name in ("updates", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: expected at least 1")
        if self.init is None:
            raise InputError("init: a LoRA needs the model that it adapts; give --init CHECKPOINT")
