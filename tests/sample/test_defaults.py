"""What is taken where no checkpoint is named: the toy world's model that comes with the package, and its own form."""

import pathlib
import shutil

import jax
import numpy as np
import PIL.Image
import pytest

import training
from lcv_jax import Pipeline
from lcv_jax.checkpoint import default, layout
from lcv_jax.checkpoint.lora import save_lora
from lcv_jax.command_line import parse
from lcv_jax.data.toy import render, sample
from lcv_jax.data.video import read_metadata, read_video
from lcv_jax.data.video_writer import write_video
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.lora import REFINEMENT_LINEARS, LoRAConfig, init_lora
from lcv_jax.models.precision import FLOAT32
from lcv_jax.sample import cli, long_tasks, long_video, tasks
from lcv_jax.sample.defaults import NEGATIVE_PROMPT, PUBLISHED, TOY
from lcv_jax.sample.options import Options

TASKS = {
    "t2v": [],
    "i2v": ["--image", "a.png"],
    "vc": ["--video", "a.mp4"],
    "long": ["--num-segments", "2"],
    "interactive": [],
}


@pytest.fixture
def installed(checkpoint_dir, monkeypatch):
    """The golden checkpoint in the default one's place."""
    monkeypatch.setattr(default, "FOLDER", checkpoint_dir)


def asked(task: str, *args: str) -> tasks.Common:
    return parse(tasks.Task | long_tasks.Task, [task, "--out", "x.mp4", *TASKS.get(task, []), *args])


@pytest.mark.parametrize("task", TASKS)
def test_a_checkpoint_that_is_named_has_the_published_defaults(task):
    found = asked(task, "--checkpoint", "c")
    options = found.options()
    assert (options.size, options.resolution, options.num_frames, options.max_text_tokens) == (None, None, 93, 512)
    assert (options.run_steps, options.run_guidance, found.negative_prompt) == (50, 4.0, NEGATIVE_PROMPT)
    assert getattr(found, "num_cond_frames", 13) == 13


@pytest.mark.parametrize("task", TASKS)
def test_the_default_checkpoint_has_its_own(task):
    found = asked(task)
    options = found.options()
    assert (options.size, options.num_frames, options.max_text_tokens) == (TOY.size, TOY.num_frames, 128)
    assert (options.run_steps, options.run_guidance, found.negative_prompt) == (TOY.steps, TOY.guidance, "")
    assert getattr(found, "num_cond_frames", 5) == 5


def test_what_is_given_stands():
    given = ["--height", "32", "--width", "96", "--num-frames", "29", "--steps", "7", "--negative-prompt", "grey"]
    found = asked("vc", *given, "--guidance", "2", "--num-cond-frames", "9", "--max-text-tokens", "64")
    options = found.options()
    assert (options.size, options.num_frames, options.steps, options.guidance) == ((32, 96), 29, 7, 2)
    assert (found.negative_prompt, found.num_cond_frames, options.max_text_tokens) == ("grey", 9, 64)
    assert asked("t2v", "--resolution", "480p").options().size is None


def test_other_schedules_keep_their_steps():
    distilled = asked("t2v", "--distilled").options()
    assert (distilled.run_steps, distilled.run_guidance) == (16, 1.0)
    refine = parse(tasks.Task, ["refine", "--out", "x.mp4", "--video", "a.mp4"])
    assert refine.refine_options(refine.options()).guidance == 1.0
    options = refine.refine_options(refine.options())
    assert (options.size, options.run_steps, options.max_text_tokens) == ((128, 128), 50, 128)


@pytest.mark.parametrize(("named", "size"), [((), (128, 128)), (("--checkpoint", "c"), None)])
@pytest.mark.parametrize("task", [*TASKS, "refine"])
def test_refinement_has_a_size_of_its_own(task, named, size):
    given = ["--video", "a.mp4"] if task == "refine" else ["--refine", "--height", "32", "--width", "32"]
    found = asked(task, *given, *named)
    assert found.refine_options(found.options()).size == size


def test_a_size_of_refinement_that_is_given_stands():
    found = asked("refine", "--video", "a.mp4", "--height", "64", "--width", "192")
    assert found.refine_options(found.options()).size == (64, 192)
    assert asked("refine", "--video", "a.mp4", "--resolution", "720p").options().size is None
    assert TOY.of_refinement({}) == {"size": (128, 128), "max_text_tokens": 128}
    assert TOY.of_refinement({"size": (64, 64), "steps": 3})["size"] == (64, 64)
    assert "size" not in TOY.of_refinement({"resolution": "720p"})
    assert PUBLISHED.of_refinement({}) == {"size": None, "max_text_tokens": 512}


def test_python_takes_the_same():
    assert PUBLISHED.filled_in({"size": (32, 32)}) == {
        "num_frames": 93,
        "max_text_tokens": 512,
        "steps": 50,
        "guidance": 4.0,
        "size": (32, 32),
    }
    assert TOY.filled_in({"steps": 3, "distilled": True}) == {
        "num_frames": 13,
        "max_text_tokens": 128,
        "size": (64, 64),
        "steps": 3,
        "distilled": True,
    }
    assert "size" not in TOY.filled_in({"resolution": "480p"})


def test_a_pipeline_without_a_name_is_the_default_checkpoints(installed, caplog):
    with caplog.at_level("INFO", "lcv_jax"):
        pipe = Pipeline.from_pretrained(dtype="float32")
    assert "no checkpoint is named: the default one, the toy world's model in" in caplog.text
    assert pipe.opened.defaults == TOY
    few = {"steps": 1, "guidance": 1, "posterior": "mode", "output": "latents"}
    assert pipe.text_to_video("a cat", **few).shape == (1, 4, 8, 8, 16)
    video = np.zeros((5, 32, 32, 3), np.uint8)
    with pytest.raises(InputError, match="4 frames, fewer than num_cond_frames=5"):
        pipe.continue_video(video[:4], "a cat", **few)
    with pytest.raises(InputError, match="4 frames, fewer than num_cond_frames=5"):
        pipe.long_video("a cat", 2, video=video[:4])
    once = {"posterior": "mode", "output": "latents", "steps": 8}
    assert pipe.refine(video[:1], spatial_only=True, **once).shape == (1, 4, 16, 16, 16)
    long = long_video.request(pipe.opened, "a cat", 2, Options(size=(64, 64)), long_video.Links(5), refine="spatial")
    assert long.refine_size == (128, 128)


def test_the_command_without_a_name(installed, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    PIL.Image.new("RGB", (40, 80), (200, 30, 30)).save("a.png")
    few = ["--prompt", "a cat", "--steps", "1", "--guidance", "1", "--compile-cache", ""]
    cli.main(["i2v", "--image", "a.png", *few, "--out", "x.mp4"])
    assert read_video(pathlib.Path("x.mp4")).frames.shape == (13, 64, 64, 3)
    settings = read_metadata(pathlib.Path("x.mp4"))
    assert (settings["checkpoint"], settings["num_frames"], settings["negative_prompt"]) == (None, 13, "")
    assert sum("no checkpoint is named" in record.message for record in caplog.records) == 1


@pytest.mark.slow
def test_the_toy_worlds_model_refines_with_a_lora_in_its_folder(tmp_path, monkeypatch):
    """Any LoRA will do: 5 frames of 64 x 64 become 10 of 128 x 128."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(default.default_checkpoint(), folder)
    monkeypatch.setattr(default, "FOLDER", folder)
    shapes = zoo.abstract_params(layout.open_models(folder)["dit"].config, FLOAT32)
    adapter = init_lora(LoRAConfig(rank=2, modules=REFINEMENT_LINEARS), shapes, jax.random.key(0))
    (folder / "lora").mkdir(exist_ok=True)
    save_lora(folder / "lora" / "refinement_lora.safetensors", training.awake(adapter, scale=0.01))
    write_video(tmp_path / "in.mp4", render(sample(3), 3, (64, 64), 5).clip, 15)
    task = ["refine", "--video", str(tmp_path / "in.mp4"), "--out", str(tmp_path / "x.mp4"), "--steps", "8"]
    cli.main([*task, "--compile-cache", ""])
    assert read_video(tmp_path / "x.mp4").frames.shape == (10, 128, 128, 3)


def test_a_package_without_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(default, "FOLDER", tmp_path)
    with pytest.raises(
        InputError, match=r"no checkpoint is named, and the default one is not installed: .* holds none"
    ):
        default.default_checkpoint()
    with pytest.raises(SystemExit, match="2"):
        cli.main(["t2v", "--prompt", "a", "--out", str(tmp_path / "x.mp4"), "--compile-cache", ""])
    assert len([line for line in capsys.readouterr().err.splitlines() if "error: no checkpoint is named" in line]) == 1
