"""A recipe for the tests: GRPO over the golden checkpoint, of pictures, which are quick."""

import dataclasses

import rewarded
from lcv_jax.train.grpo_config import GRPOConfig


def config() -> GRPOConfig:
    config = rewarded.config()
    return dataclasses.replace(config, rollout=dataclasses.replace(config.rollout, frames=1))
