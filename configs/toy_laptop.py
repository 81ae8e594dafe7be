r"""The toy world on a laptop in one go: text to image and text to video mixed, 64 x 64, 13 frames, untrained weights.

    python -m lcv_jax.data.cache --source toy:2000 --forms 64x64x13 64x64x1@0.5 --checkpoint outputs/toy/base \
        --out outputs/toy/laptop --max-text-tokens 48 --batch 8 --shard-records 256
    python train.py configs/toy_laptop.py --out outputs/toy/run-laptop

Hardware: two cores. Time: 8 clips of 64 tokens (or 32 pictures) a step; an hour or two. Expected: a falling loss, and
blobs of the right colour; the three stages are for more. Not run yet.
"""

import dataclasses

from lcv_jax.train.config import TrainConfig
from lcv_jax.train.recipes import toy


def config() -> TrainConfig:
    base = toy(paths={"outputs/toy/laptop": 1.0}, tokens=8 * 64, rate=1e-3, steps=3_000, init=None)
    return dataclasses.replace(base, samples=dataclasses.replace(base.samples, every=500))
