"""Clips through an autoencoder whose error is known."""

import dataclasses
import math

import numpy as np
import pytest

from lcv_jax.data import images
from lcv_jax.data.toy import Facts, Object
from lcv_jax.eval.reconstruction import Reconstructed, reconstructed
from lcv_jax.eval.sampling import Sampling

SAMPLING = Sampling((32, 48), 5, 1, steps=1, guidance=1.0, max_text_tokens=8, batch=2)


class Off:
    """Is wrong by 5 levels everywhere; sees batches of two."""

    def encode_video(self, video):
        assert video.shape[0] == 2
        return video

    def decode_video(self, latents):
        wrong = images.to_uint8(latents).astype(int)
        return images.to_model(np.where(wrong < 128, wrong + 5, wrong - 5).astype(np.uint8))


@pytest.mark.parametrize("frames", [1, 5])
def test_the_error_is_told_in_decibels(frames):
    found = reconstructed(Off(), SAMPLING, 3, (1, 2), frames)
    assert found.drawn.shape == found.decoded.shape == (3, frames, 32, 48, 3)
    expected = 20 * math.log10(255 / 5)
    told = found.told()
    assert (told["clips"], told["psnr"], told["worst"]) == (3, pytest.approx(expected), pytest.approx(expected))
    assert len({clip.tobytes() for clip in found.drawn}) == 3


def test_the_error_is_a_mean_over_all():
    drawn = np.full((2, 1, 8, 8, 3), 100, np.uint8)
    decoded = drawn + np.array([0, 20], np.uint8).reshape(2, 1, 1, 1, 1)
    found = Reconstructed(drawn, decoded, [Facts((Object("red", "circle"),))] * 2)
    assert found.psnr() == pytest.approx(10 * math.log10(255**2 / 200))
    assert found.psnr(0) == math.inf
    assert found.told()["worst"] == pytest.approx(20 * math.log10(255 / 20))


@pytest.mark.parametrize("frames", [1, 13])
def test_what_the_judge_reads_of_it(frames):
    sampling = dataclasses.replace(SAMPLING, size=(64, 64), frames=frames)
    found = reconstructed(Off(), sampling, 4, (1, 2), frames)
    assert found.told()["all"]["right"] == 4
    grey = dataclasses.replace(found, decoded=np.concatenate([found.decoded[:3], np.full_like(found.decoded[3:], 128)]))
    assert grey.told()["all"]["right"] == 3
