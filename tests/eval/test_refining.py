"""Figures of refined clips by hand, and that all ways are given the same clips."""

import numpy as np
import pytest

from lcv_jax.data.pairs import Pairs
from lcv_jax.data.toy import sample
from lcv_jax.eval.judging import verdict
from lcv_jax.eval.refining import Refined, Refining, Way, gradient_energy, refined
from lcv_jax.eval.sampling import Sampling
from lcv_jax.eval.sheets import refined_sheet

SAMPLING = Sampling((32, 32), 5, 5, steps=3, guidance=1.0, max_text_tokens=16, seed=4)
WAYS = (Way("upsampled", refines=False), Way("dense"), Way("bsa", lora="x.safetensors", sparse="config"))


def test_gradient_energy_by_hand():
    """A step of 10 grey levels in one of 3 gaps beside, in none of 1 below; red counts 0.299 of its levels."""
    frames = np.zeros((2, 2, 4, 3), np.uint8)
    frames[:, :, 2:] = 10
    assert gradient_energy(frames) == pytest.approx(100 / 3, rel=1e-5)
    frames[..., 1:] = 0
    assert gradient_energy(frames) == pytest.approx((0.299 * 10) ** 2 / 3, rel=1e-5)
    assert gradient_energy(np.full((1, 3, 3, 3), 9, np.uint8)) == 0


class Blind:
    """A pipeline that gives back what it is asked to refine, as large as it shall be; keeps what it was asked for."""

    class opened:
        @staticmethod
        def lora_file(name):
            return f"{name}.safetensors"

    def __init__(self):
        self.asked, self.loaded = [], []

    def encode_video(self, video):
        return video

    def frames(self, video):
        return np.round((np.asarray(video) + 1) * 127.5).astype(np.uint8)

    def load_lora(self, path, name):
        self.loaded.append((path, name))

    def refine(self, low, prompt, *, size, **options):
        self.asked.append((low, prompt, options))
        return low.repeat(2, axis=1).repeat(2, axis=2)[None]


@pytest.mark.parametrize(("mode", "frames"), [("spatial", 5), ("spatio-temporal", 10)])
def test_all_ways_have_the_same_clips_and_their_own_loras(mode, frames):
    pipe, how = Blind(), Refining((64, 64), mode, 3, 16, seed=4)
    source = how.source(SAMPLING, 2, (1,))
    found = list(refined(pipe, how, SAMPLING, WAYS, source, "zh"))
    assert [each.way for each in found] == list(WAYS)
    assert found[0].clips[0].shape == source[0]["video"].shape == (frames, 64, 64, 3)
    assert pipe.loaded == [("refinement.safetensors", "refinement"), ("x.safetensors", "refinement")]
    for n in range(2):
        (one, prompt, first), (two, _, second) = pipe.asked[n], pipe.asked[2 + n]
        np.testing.assert_array_equal(one, two)
        assert one.shape == (5, 32, 32, 3)
        assert prompt == source[n]["caption_zh"]
        assert (first["sparse"], second["sparse"], first["seed"]) == (None, "config", 4 + n)
        assert first["spatial_only"] == (Pairs(mode).times == 1)


def test_figures_by_hand():
    """Half the contrast is a quarter of the energy; an error of 5 levels in every byte."""
    true = np.zeros((1, 32, 32, 3), np.uint8)
    true[:, :, 16:] = 20
    soft = true // 2 + 5
    verdicts = [verdict("t2v", true, sample(0, (1,)), 0)]
    told = Refined(WAYS[0], [soft], [true], verdicts).told()
    assert told["sharpness"] == pytest.approx(0.25)
    assert told["psnr"] == pytest.approx(20 * np.log10(255 / 5))
    assert told["clips"] == 1
    assert told["all"]["of"] == 1
    same = Refined(WAYS[1], [true], [true], verdicts)
    assert (same.told()["psnr"], same.told()["sharpness"]) == (np.inf, 1)
    assert refined_sheet([same, same]).shape[1] > 3 * 32
