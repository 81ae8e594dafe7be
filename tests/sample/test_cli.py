"""The command as a user runs it: files in, files out, one clear line on bad input."""

import itertools
import json
import re
import shlex
import shutil
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
import tyro

from lcv_jax.data.text import Tokenizer
from lcv_jax.data.video import probe, read_metadata, read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.sample import cli, memory, opened
from lcv_jax.sample.tasks import Task

SMALL = {
    "--height": "32",
    "--width": "48",
    "--num-frames": "5",
    "--steps": "2",
    "--max-text-tokens": "16",
    "--compile-cache": "",
}


@pytest.fixture
def run(checkpoint_dir, tmp_path, monkeypatch, capsys):
    """run("t2v", "--out", ...) in an empty folder; returns what was printed."""
    monkeypatch.chdir(tmp_path)

    def call(task, *args, checkpoint=checkpoint_dir):
        small = {name: value for name, value in SMALL.items() if name not in args}
        cli.main([task, "--checkpoint", str(checkpoint), *itertools.chain(*small.items()), *args])
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
    printed = run("t2v", "--prompt", "一只猫", "--seed", "7", "--out", "new/x.mp4", "--save-latents", "x.npy")
    assert printed.out.split() == ["new/x.mp4"]
    info = probe(tmp_path / "new/x.mp4")
    assert (info.width, info.height, info.fps, info.codec) == (48, 32, 15, "h264")
    assert len(read_video(tmp_path / "new/x.mp4").frames) == 5
    assert np.load(tmp_path / "x.npy").shape == (1, 2, 4, 6, 16)
    settings = read_metadata(tmp_path / "new/x.mp4")
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


def test_every_adapter_given_counts():
    args = ["t2v", "--checkpoint", "c", "--out", "x.mp4", "--prompt", "a", "--lora", "a@0.5", "--lora", "b"]
    assert list(tyro.cli(Task, args=args).adapters().values()) == [("a", 0.5), ("b", 1.0)]


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
    ("t2v --prompt a --out text.mp4/x.mp4", "text.mp4 is not a folder"),
    ("t2v --prompt a --out x.mp4 --save-latents x.txt", "ends in .npy"),
    ("t2v --prompt a --out x.mp4 --height 30", "30 x 48: height and width must be multiples of 16"),
    ("t2v --prompt a --out x.mp4 --height 0", "a side of size=0"),
    ("t2v --prompt a --out x.mp4 --steps 0", "steps=0"),
    ("t2v --prompt a --out x.mp4 --steps 51 --distilled", "at most 50"),
    ("t2v --prompt a --out x.mp4 --guidance nan", "guidance=nan"),
    ("t2v --prompt a --out x.mp4 --guidance inf", "guidance=inf"),
    ("t2v --prompt a --out x.mp4 --steps 1000000000000", "at least 1 and below 1001"),
    ("t2v --prompt &nbsp; --out x.mp4", "--prompt is empty"),
    ("t2v --prompt caf\udce9 --out x.mp4", "holds bytes that are no text"),
    ("t2v --prompt a --out x.mp4 --lora x.safetensors@nan", "the scale is not finite"),
    ("t2v --prompt a --out x.mp4 --seed -1", "--seed=-1"),
    ("t2v --prompt a --out x.mp4 --seed 4294967295 --videos-per-prompt 2", "last seed of prompt 1"),
    ("t2v --prompt a --out x.mp4 --num-frames -1", "num_frames=-1"),
    ("t2v --prompt a --out x.mp4 --resolution 480p", "give one of them"),
    ("t2v --prompt a --out x.mp4 --max-text-tokens 0", "max_text_tokens=0"),
    ("t2v --prompt a --out x.mp4 --lora no.safetensors", "no.safetensors"),
    ("t2v --prompt a --out x.mp4 --lora other.safetensors", "not a LoRA file"),
    ("t2v --prompt a --out x.mp4 --vae-tile 20", "expected multiples of 8 pixels"),
    ("t2v --prompt a --out x.mp4 --height 16000 --width 16000 --num-frames 4001", "not enough device memory"),
    ("i2v --prompt a --out x.mp4 --image no.png", "no such file"),
    ("i2v --prompt a --out x.mp4 --image text.png", "text.png"),
    ("i2v --prompt a --out x.mp4 --image dot.png", "1 x 1"),
    ("i2v --prompt a --out x.mp4 --image in.png --num-frames 1", "leaves nothing to generate"),
    ("vc --prompt a --out x.mp4 --video no.mp4", "no such file"),
    ("vc --prompt a --out x.mp4 --video text.mp4", "not a readable video"),
    ("vc --prompt a --out x.mp4 --video in.mp4", "has 6 frames at 15 a second"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 0", "--num-cond-frames 0"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 4", "4 frames cannot be encoded"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 5", "leaves nothing to generate"),
    ("vc --prompt a --out x.mp4 --video in.mp4 --num-cond-frames 5 --distilled --enhance-hf on", "cannot be combined"),
    ("refine --video no.mp4 --out x.mp4", "no such file"),
    ("refine --video in.mp4 --out x.mp4 --height 64 --width 64 --guidance 4", "--guidance 4: refinement has none"),
    ("refine --video in.mp4 --out x.mp4", "32 x 48: height and width must be multiples of 64"),
    ("t2v --prompt a --out x.mp4 --refine --height 16000 --width 16000 --num-frames 4001", "not enough device memory"),
    ("long --num-segments 2 --out x.mp4", "either --prompt"),
    ("long --num-segments 0 --prompt a --out x.mp4", "--num-segments=0"),
    ("long --num-segments 2 --prompt a --out x.mp4", "leaves nothing to generate"),
    ("long --num-segments 2 --prompt a --out x.png", "ends in .mp4"),
    ("long --num-segments 2 --prompt a --out text.mp4/x.mp4", "text.mp4 is not a folder"),
    ("long --num-segments 2 --prompt a --out x.mp4 --save-latents x.npy", "latents for each segment"),
    ("long --num-segments 2 --prompt a --out x.mp4 --image in.png --video in.mp4", "both given"),
    ("long --num-segments 2 --prompt a --out x.mp4 --video no.mp4", "no such file"),
    ("long --num-segments 2 --prompt a --out x.mp4 --video in.mp4", "6 frames, fewer than num_cond_frames=13"),
    ("long --num-segments 2 --prompt a --out x.mp4 --seed 4294967295", "4294967296"),
    ("long --num-segments 2 --prompt a --out x.mp4 --lora other.safetensors --num-cond-frames 1", "not a LoRA file"),
    ("long --num-segments 1 --prompt a --out x.mp4 --height 16000 --width 16000 --num-frames 4001", "device memory"),
    ("interactive --prompt a --out x.mp4", "takes its prompts from --prompts FILE"),
    ("interactive --prompts no.txt --out x.mp4", "no.txt: cannot be read"),
    ("interactive --prompts p.jsonl --out x.mp4", "p.jsonl, prompt 2 is empty"),
    ("interactive --prompts text.mp4 --videos-per-prompt 2 --out x.mp4", "makes one video of all"),
    ("t2v --prompt a --out x.mp4 --mesh=fsdp=4", "needs 4 devices, there are 1"),
    ("t2v --prompt a --out x.mp4 --mesh batch=4", "axis 'batch' is not known"),
    ("t2v --prompt a --out x.mp4 --coordinator host:1", "--coordinator without --mesh"),
    ("t2v --prompt a --out x.mp4 --mesh fsdp=-1 --coordinator host", "coordinator 'host': expected HOST:PORT"),
    ("t2v --prompt a --out x.mp4 --mesh fsdp=-1 --coordinator host:1", "without the number of processes"),
    ("t2v --prompt a --out x.mp4 --process-id 1", "process id 1 without a coordinator"),
]


@pytest.mark.parametrize(("command", "message"), BAD, ids=[c for c, _ in BAD])
def test_bad_input_is_one_line_before_weights_are_read(run, inputs, weightless, capsys, command, message):
    before = sorted(inputs.iterdir())
    with pytest.raises(SystemExit) as stop:
        run(*command.split(" "))
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert sorted(inputs.iterdir()) == before


def test_what_only_together_does_not_fit_is_refused_before_weights_are_read(run, weightless, monkeypatch, capsys):
    asked, check = [], memory.check
    monkeypatch.setattr(memory, "check", lambda needed, *_: asked.append(needed))
    command = ["t2v", "--prompt", "a", "--out", "x.mp4"]
    for more in ([], ["--distilled", "--guidance", "4"], ["--height", "64"]):
        with pytest.raises(WeightsRead):
            run(*command, *more)
    plain, distilled, larger = asked
    assert plain < min(distilled, larger)
    monkeypatch.setattr(memory, "check", check)
    monkeypatch.setattr(memory, "free_bytes", lambda: plain - 1)
    with pytest.raises(SystemExit):
        run(*command)
    assert "not enough device memory" in capsys.readouterr().err


@pytest.fixture(scope="module")
def tokenizer(checkpoint_dir):
    return Tokenizer.open(checkpoint_dir / "tokenizer")


class WeightsRead(Exception):
    pass


@pytest.fixture
def weightless(monkeypatch, tokenizer):
    """Weights cannot be read; the tokenizer is read once for all, as that takes the longest."""

    def read(*args, **options):
        raise WeightsRead

    monkeypatch.setattr(opened, "load_params", read)
    monkeypatch.setattr(Tokenizer, "open", lambda folder: tokenizer)


@pytest.fixture
def inputs(moving, tmp_path, checkpoint_dir):
    """A folder of good and bad inputs."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": " "}')
    PIL.Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    PIL.Image.new("RGB", (64, 36)).save(tmp_path / "in.png")
    (weights,) = (checkpoint_dir / "vae").glob("*.safetensors")
    shutil.copy(weights, tmp_path / "other.safetensors")
    return tmp_path


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


@pytest.mark.slow
def test_tiles_of_the_autoencoder(run, tmp_path):
    plain = ["t2v", "--prompt", "a cat", "--guidance", "1"]
    run(*plain, "--out", "whole.mp4")
    run(*plain, "--out", "tiles.mp4", "--vae-tile", "32")
    whole, tiles = (read_video(tmp_path / name).frames.astype(float) for name in ("whole.mp4", "tiles.mp4"))
    assert 0 < np.abs(whole - tiles).mean() < 0.5 * whole.std()


@pytest.mark.slow
def test_the_readmes_commands_run(request, run, checkpoint_dir, tmp_path):
    """At a small size; what verify needs is made in tests/checkpoint."""
    readme = (request.config.rootpath / "README.md").read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) for line in block.splitlines()]
    lines = [shlex.split(line, comments=True) for line in lines]
    sample = [args[2:] for args in lines if args[:2] == ["python", "sample.py"]]
    small = {task: ["--num-frames", "17"] for task in ("vc", "long", "interactive")}
    small["refine"] = ["--height", "64", "--width", "64", "--steps", "8"]
    assert {task for task, *_ in sample} >= {"t2v", "i2v", *small}
    PIL.Image.new("RGB", (64, 36)).save(tmp_path / "girl.png")
    write_video(tmp_path / "road.mp4", np.zeros((13, 36, 64, 3), np.uint8), 15)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a cat"}')
    (tmp_path / "scenes.txt").write_text("a cat\na dog")
    for task, *args in sample:
        at = args.index("--checkpoint")
        assert args[at + 1] == "DIR"
        del args[at : at + 2]
        run(task, *args, *small.get(task, []))
        assert list((tmp_path / args[args.index("--out") + 1]).parent.glob("*.[mp][pn][4g]"))
