"""A recipe for the tests: GRPO over the golden checkpoint."""

import rewarded
from lcv_jax.train.grpo_config import GRPOConfig


def config() -> GRPOConfig:
    return rewarded.config()
