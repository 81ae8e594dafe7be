"""Refinement: conditions, refusals. The official runs are in test_goldens.py."""

import numpy as np
import pytest

from lcv_jax.data.video import probe, read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from lcv_jax.sample import cli

SMALL = {"size": (64, 64), "steps": 8, "max_text_tokens": 16, "posterior": "mode"}


def clip(frames, height=32, width=32):
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_all_frames_come_out_where_the_official_result_is_short(pipe):
    """15 frames pad to 16 officially, of which 13 are encoded."""
    out = pipe.refine(clip(15), "", spatial_only=True, **SMALL)
    assert out.shape == (1, 15, 64, 64, 3)
    assert out.dtype == np.uint8


def test_the_seed_decides(pipe):
    run = {**SMALL, "spatial_only": True, "output": "latents", "posterior": "sample"}
    a, b, c = (pipe.refine(clip(5), "a cat", seed=seed, **run) for seed in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_cond_frames": 2}, "num_cond_frames=2 without a condition"),
        ({"condition": clip(3)}, "needs num_cond_frames"),
        ({"condition": clip(3), "num_cond_frames": 4}, "has 3 frames, fewer than num_cond_frames=4"),
        ({"condition": clip(10), "num_cond_frames": 10}, "num_cond_frames=10 of 10 refined frames"),
        ({"t_thresh": 0}, "t_thresh=0"),
        ({"size": (48, 64)}, "multiples of 64"),
        ({"noise": np.zeros((1, 2, 8, 8, 16))}, "noise of shape"),
        ({"latents": np.zeros((1, 4, 8, 8, 16))}, "give noise for latents"),
        ({"distilled": True}, "leave out distilled"),
        ({"size": (16384, 16384)}, "not enough device memory"),
    ],
)
def test_bad_refinements_raise(pipe, options, message):
    with pytest.raises(InputError, match=message):
        pipe.refine(clip(5), "", **(SMALL | options))


def test_the_command_refines_a_file(checkpoint_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("in.mp4", clip(5), 15)
    options = ["--height", "64", "--width", "64", "--steps", "8", "--max-text-tokens", "16", "--compile-cache", ""]
    cli.main(["refine", "--checkpoint", str(checkpoint_dir), "--video", "in.mp4", "--out", "x.mp4", *options])
    info = probe("x.mp4")
    assert (info.width, info.height, info.fps) == (64, 64, 30)
    assert len(read_video("x.mp4").frames) == 10


@pytest.mark.slow
def test_a_continuation_is_refined_behind_its_input(checkpoint_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("in.mp4", clip(16), 30)
    options = ["--height", "32", "--width", "48", "--num-frames", "9", "--num-cond-frames", "5"]
    options += ["--steps", "8", "--max-text-tokens", "16"]
    task = ["vc", "--checkpoint", str(checkpoint_dir), "--video", "in.mp4", "--prompt", "a cat", "--out", "x.mp4"]
    cli.main([*task, *options, "--compile-cache", "", "--refine"])
    assert len(read_video("x.mp4").frames) == 16 + 8
    assert probe("x.mp4").fps == 30
