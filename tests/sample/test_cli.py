"""The command as a user runs it: files in, files out, one clear line on bad input."""

import json
import shutil
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest

from lcv_jax.data.video import probe, read_metadata, read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.sample import cli

SMALL = [
    *("--height", "32", "--width", "48", "--num-frames", "5", "--steps", "2"),
    *("--max-text-tokens", "16", "--compile-cache", ""),
]


@pytest.fixture
def run(checkpoint_dir, tmp_path, monkeypatch, capsys):
    """run("t2v", "--out", ...) in an empty folder; returns what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(task, *args, checkpoint=checkpoint_dir):
        cli.main([task, "--checkpoint", str(checkpoint), *SMALL, *args])
        return capsys.readouterr()

    return call


@pytest.fixture
def moving(tmp_path):
    """A video of 12 frames at 30 a second, 64 x 36, whose brightness rises."""
    frames = np.stack([np.full((36, 64, 3), 20 * i, np.uint8) for i in range(12)])
    path = tmp_path / "in.mp4"
    write_video(path, frames, 30)
    return path


def test_text_to_video_with_latents_and_settings(run, tmp_path):
    printed = run("t2v", "--prompt", "一只猫", "--seed", "7", "--out", "x.mp4", "--save-latents", "x.npy")
    assert printed.out.split() == ["x.mp4"]
    info = probe(tmp_path / "x.mp4")
    assert (info.width, info.height, info.fps, info.codec) == (48, 32, 15, "h264")
    assert len(read_video(tmp_path / "x.mp4").frames) == 5
    assert np.load(tmp_path / "x.npy").shape == (1, 2, 4, 6, 16)
    settings = read_metadata(tmp_path / "x.mp4")
    assert (settings["task"], settings["prompt"], settings["seed"], settings["steps"]) == ("t2v", "一只猫", 7, 2)
    assert settings["versions"].keys() == {"lcv_jax", "jax", "flax"}


def test_same_seed_same_bytes(run, tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        run("t2v", "--prompt", "a cat", "--seed", "8" if name == "c.mp4" else "7", "--out", name)
    a, b, c = ((tmp_path / name).read_bytes() for name in ("a.mp4", "b.mp4", "c.mp4"))
    assert a == b
    assert a != c


def test_text_to_image(run, tmp_path):
    run("t2v", "--prompt", "a cat", "--num-frames", "1", "--out", "x.png")
    assert PIL.Image.open(tmp_path / "x.png").size == (48, 32)


def test_a_file_of_prompts(run, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "seed": 4}\n{"prompt": "a dog"}\n')
    out = run("t2v", "--prompts", "p.jsonl", "--videos-per-prompt", "2", "--out", "x.mp4").out.split()
    assert out == ["x-000-seed4.mp4", "x-000-seed5.mp4", "x-001-seed0.mp4", "x-001-seed1.mp4"]
    run("t2v", "--prompt", "a dog", "--seed", "1", "--out", "alone.mp4")
    alone, listed = (read_video(tmp_path / name).frames for name in ("alone.mp4", "x-001-seed1.mp4"))
    np.testing.assert_array_equal(alone, listed)


def test_image_to_video_of_an_image_with_alpha(run, tmp_path):
    PIL.Image.new("RGBA", (50, 30), (200, 30, 30, 128)).save(tmp_path / "in.png")
    run("i2v", "--image", "in.png", "--prompt", "a cat", "--out", "x.mp4", "--guidance", "1")
    assert len(read_video(tmp_path / "x.mp4").frames) == 5


@pytest.mark.parametrize(("native", "size"), [([], (48, 32)), (["--native-size"], (64, 36))])
@pytest.mark.smoke
def test_continuation_stands_behind_the_input(run, moving, tmp_path, native, size):
    options = ["--num-cond-frames", "5", "--num-frames", "9", "--enhance-hf", "off", "--guidance", "1", *native]
    run("vc", "--video", "in.mp4", "--prompt", "a cat", "--out", "x.mp4", *options)
    clip = read_video(tmp_path / "x.mp4")
    info = probe(tmp_path / "x.mp4")
    assert (info.width, info.height, clip.fps) == (*size, Fraction(15))
    assert len(clip.frames) == 6 + 4  # every second input frame, then four new ones
    brightness = clip.frames[:6].mean((1, 2, 3))
    np.testing.assert_allclose(brightness, [0, 40, 80, 120, 160, 200], atol=4)


def test_adapters_from_files(run, checkpoint_dir, tmp_path):
    lora = f"{checkpoint_dir}/lora/cfg_step_lora.safetensors"
    plain = ["t2v", "--prompt", "a cat", "--guidance", "1"]
    run(*plain, "--out", "x.mp4", "--save-latents", "plain.npy")
    run(*plain, "--out", "x.mp4", "--save-latents", "lora.npy", "--lora", f"{lora}@0.5")
    run(*plain, "--out", "x.mp4", "--save-latents", "zero.npy", "--lora", f"{lora}@0")
    load = {name: np.load(tmp_path / f"{name}.npy") for name in ("plain", "lora", "zero")}
    np.testing.assert_allclose(load["plain"], load["zero"], atol=1e-4)
    assert np.abs(load["plain"] - load["lora"]).max() > 1e-2


BAD = [
    ("t2v --prompt  --out x.mp4", "--prompt is empty"),
    ("t2v --out x.mp4", "either --prompt"),
    ("t2v --prompt a --out x.avi", "expected a name that ends in .mp4"),
    ("t2v --prompt a --out x.png", "a .png holds one frame"),
    ("t2v --prompt a --out no/x.mp4", "folder no does not exist"),
    ("t2v --prompt a --out x.mp4 --save-latents x.txt", "ends in .npy"),
    ("t2v --prompt a --out x.mp4 --height 30", "30"),
    ("t2v --prompt a --out x.mp4 --height 0", "0"),
    ("t2v --prompt a --out x.mp4 --steps 0", "steps=0"),
    ("t2v --prompt a --out x.mp4 --num-frames -1", "num_frames=-1"),
    ("t2v --prompt a --out x.mp4 --resolution 480p", "give one of them"),
    ("t2v --prompt a --out x.mp4 --max-text-tokens 0", "max_tokens"),
    ("t2v --prompt a --out x.mp4 --lora no.safetensors", "no.safetensors"),
    ("t2v --prompt a --out x.mp4 --height 16000 --width 16000 --num-frames 4001", "not enough device memory"),
    ("i2v --prompt a --out x.mp4 --image no.png", "no such file"),
    ("i2v --prompt a --out x.mp4 --image text.png", "text.png"),
    ("i2v --prompt a --out x.mp4 --image dot.png", "1 x 1"),
    ("vc --prompt a --out x.mp4 --video no.mp4", "no such file"),
    ("vc --prompt a --out x.mp4 --video text.mp4", "not a readable video"),
    ("vc --prompt a --out x.mp4 --video in.mp4", "has 6 frames at 15 a second"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 0", "--num-cond-frames 0"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 4", "4 frames cannot be encoded"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 5", "leaves nothing to generate"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 5 --distilled --enhance-hf on", "cannot be combined"),
]


@pytest.mark.parametrize(("command", "message"), BAD, ids=[c for c, _ in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(run, moving, tmp_path, capsys, command, message):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "text.mp4").write_text("not a video")
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as stop:
        run(*command.split(" "))
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(tmp_path.iterdir()) == before


def test_bad_checkpoints_are_one_line(run, checkpoint_dir, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint_dir, copy)
    config = json.loads((copy / "dit" / "config.json").read_text()) | {"x": 1}
    for name, change, message in [
        ("missing folder", lambda: shutil.rmtree(copy / "vae"), "copy/vae"),
        ("unknown field", lambda: (copy / "dit/config.json").write_text(json.dumps(config)), "unknown field 'x'"),
        ("no checkpoint", lambda: shutil.rmtree(copy), "copy"),
    ]:
        change()
        with pytest.raises(SystemExit) as stop:
            run("t2v", "--prompt", "a", "--out", "x.mp4", checkpoint=copy)
        assert stop.value.code == 2, name
        assert message in capsys.readouterr().err, name
    assert not (tmp_path / "x.mp4").exists()


def test_a_long_prompt_is_cut_with_a_warning(run, caplog):
    run("t2v", "--prompt", "a cat and " * 20, "--guidance", "1", "--out", "x.mp4")
    assert "only the first 16 are used" in caplog.text
