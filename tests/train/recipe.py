"""A recipe for the tests: a tiny model on the dataset that the environment variable LCV_TEST_DATA names."""

import os

import training
from lcv_jax.data.batching import Tasks
from lcv_jax.data.loader import Settings
from lcv_jax.train.config import DataConfig, TrainConfig
from lcv_jax.train.optimizer import AdamW


def config() -> TrainConfig:
    batches = Settings(tokens=16, multiple=2, text_tokens=6, tasks=Tasks(), posterior="sample")
    return TrainConfig(
        model=training.TINY,
        data=DataConfig(paths=(os.environ.get("LCV_TEST_DATA", "nowhere"),), batches=batches),
        optimizer=AdamW(rate=1e-3, warmup=2),
        steps=8,
        save_every=3,
        log_every=1,
        dtype="float32",
        mesh="data=1",
    )
