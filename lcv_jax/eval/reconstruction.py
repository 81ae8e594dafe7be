"""How much of a clip comes through the autoencoder."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.data import images
from lcv_jax.data.toy import Facts
from lcv_jax.eval.judging import verdict
from lcv_jax.eval.sampling import Sampling, batches
from lcv_jax.eval.shares import share
from lcv_jax.sample.pipeline import Pipeline


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """drawn, decoded: (N, F, H, W, 3) uint8. facts: what is drawn."""

    drawn: np.ndarray
    decoded: np.ndarray
    facts: Sequence[Facts]

    def psnr(self, index: int | None = None) -> float:
        """Peak signal to noise ratio in dB, of the mean squared error of bytes over all clips, or over one."""
        rows = slice(None) if index is None else index
        error = np.mean((self.drawn[rows].astype(np.float32) - self.decoded[rows].astype(np.float32)) ** 2)
        return 10 * math.log10(255**2 / error) if error else math.inf

    def told(self) -> dict[str, Any]:
        """{"clips", "psnr", "worst": the clip's of least PSNR, "all": the `share` of decoded clips that are "all" right
        in `judging.Verdict`, which is what a model behind this autoencoder can reach}."""
        each = [self.psnr(i) for i in range(len(self.drawn))]
        right = [
            verdict("t2v", clip, facts, 0).right["all"] for clip, facts in zip(self.decoded, self.facts, strict=True)
        ]
        return {"clips": len(each), "psnr": self.psnr(), "worst": min(each), "all": share(sum(right), len(right))}


def reconstructed(pipe: Pipeline, sampling: Sampling, count: int, objects: Sequence[int], frames: int) -> Reconstructed:
    """`count` held-out clips of `frames` frames through the autoencoder, by the mode of the posterior."""
    source, decoded = sampling.source(count, objects, frames), []
    records = [source[number] for number in range(count)]
    drawn = np.stack([record["video"] for record in records])
    size = min(sampling.batch, count)
    for numbers in batches(count, size):
        filled = drawn[[*numbers, *[numbers[-1]] * (size - len(numbers))]]
        video = pipe.decode_video(pipe.encode_video(images.to_model(filled)))
        decoded.append(images.to_uint8(video)[: len(numbers)])
    return Reconstructed(drawn, np.concatenate(decoded), [record["facts"] for record in records])
