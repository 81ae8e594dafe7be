"""The measuring command: numbers of every task, sheets of them, and what it refuses."""

import json
import shutil

import pytest

import caches
from lcv_jax.data.images import read_image
from lcv_jax.errors import InputError
from lcv_jax.eval.__main__ import main
from lcv_jax.eval.command import Eval
from lcv_jax.sample.defaults import TOY

SMALL = ["--size", "32x32", "--steps", "1", "--guidance", "1", "--max-text-tokens", "8", "--compile-cache", ""]
SCORES = {"colour", "shape", "motion", "count", "all"}


def run(checkpoint_dir, tmp_path, *args: object) -> dict:
    """What eval.json holds."""
    where = ["--checkpoint", checkpoint_dir, "--out", tmp_path / "eval.json"]
    assert main([*map(str, [*where, *SMALL, *args])]) == 0
    return json.loads((tmp_path / "eval.json").read_text())


def test_figures_settings_and_sheets_are_written(checkpoint_dir, tmp_path, capsys):
    asked = ["--toy", 2, "--tasks", "i2v", "reconstruction", "--languages", "zh", "--frames", 5, "--batch", 2]
    found = run(checkpoint_dir, tmp_path, *asked, "--sheet", tmp_path / "s.png", "--clips", tmp_path / "clips")
    assert found["settings"] | {"toy": 2, "size": "32x32", "frames": 5, "max_text_tokens": 8} == found["settings"]
    judged = found["judge"].pop("i2v zh")
    assert (found["judge"], judged["clips"], set(judged["mean"])) == ({}, 2, SCORES - {"all"})
    for name in SCORES | {"kept"}:
        assert judged[name]["of"] == 2
        assert judged[name]["share"] == judged[name]["right"] / 2
        low, high = judged[name]["interval"]
        assert 0 <= low <= judged[name]["share"] <= high <= 1
    assert {name: told["clips"] for name, told in found["reconstruction"].items()} == {"clips": 2, "pictures": 2}
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"s-i2v-zh.png", "s-reconstruction-clips.png", "s-reconstruction-pictures.png"}
    assert all(read_image(tmp_path / name).std() > 0 for name in names)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["i2v-zh-0000.mp4", "i2v-zh-0001.mp4"]
    assert str(tmp_path / "eval.json") in capsys.readouterr().out


def test_refinement_is_measured_against_upsampling(checkpoint_dir, tmp_path, capsys):
    asked = ["--toy", 1, "--tasks", "refine", "--languages", "en", "--frames", 1, "--refine-size", "64x64"]
    found = run(checkpoint_dir, tmp_path, *asked, "--steps", 8, "--sheet", tmp_path / "s.png")["refine"]["en"]
    assert set(found) == {"upsampled", "dense", "bsa"}
    for told in found.values():
        assert told["clips"] == 1
        assert told["sharpness"] > 0
        assert 0 < told["psnr"] < 60
    assert len({told["psnr"] for told in found.values()}) == 3
    assert read_image(tmp_path / "s-refine-en.png").std() > 0
    assert "refine en, 1 clips bsa: all " in capsys.readouterr().out


@pytest.mark.slow
def test_every_task_is_measured(checkpoint_dir, tmp_path):
    asked = ["--toy", 2, "--tasks", "t2v", "i2v", "vc", "long", "reconstruction", "--films", 1, "--segments", 2]
    found = run(checkpoint_dir, tmp_path, *asked, "--frames", 9, "--languages", "en", "--sheet", tmp_path / "s.png")
    assert set(found["judge"]) == {"t2v en", "i2v en", "vc en"}
    assert set(found["judge"]["vc en"]) == {"clips", "mean", "continued"} | SCORES
    assert (found["long"]["en"]["films"], found["long"]["en"]["segments"]) == (1, 2)
    assert len(list(tmp_path.glob("*.png"))) == 6


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "nothing to measure: give --data DATASET, --toy COUNT, or both"),
        ({"tasks": ("long",), "frames": 5}, "--frames 5: vc and long need more than --cond-frames 5"),
        ({"toy": 1, "tasks": ("vc",), "frames": 1}, "--frames 1: vc and long need more than --cond-frames 5"),
        ({"toy": 1, "batch": 0}, "--batch 0: expected at least 1"),
        ({"tasks": ("long",), "films": 0}, "--films 0: expected at least 1"),
        ({"tasks": ("long", "reconstruction")}, "--tasks reconstruction: is of clips of the toy world, give --toy"),
        ({"tasks": ("long", "refine")}, "--tasks refine: is of clips of the toy world, give --toy"),
        ({"data": "/nowhere", "tasks": ("long",)}, "--data has the loss of t2v, i2v, vc: add one of them to --tasks"),
        ({"data": "/nowhere"}, "/nowhere/index.json: no such file"),
        ({"toy": 1, "max_text_tokens": 0}, "--max-text-tokens 0: expected at least 1"),
        ({"toy": 1, "distilled": True, "enhance_hf": "on"}, "--enhance-hf on: is not for the distilled schedule"),
        ({"toy": 1, "distilled": True, "tasks": ("refine",)}, "--tasks refine: has steps of its own"),
        ({"toy": -1}, "length=-1: expected at least 0"),
        ({"toy": 1, "size": "64"}, "size '64': expected"),
        ({"toy": 1, "size": "16x16"}, "each at least 32 pixels"),
        ({"toy": 1, "objects": (4,)}, "expected numbers of objects from 1 to 3"),
        ({"toy": 1, "sheet": "sheet.jpg"}, "sheet.jpg.*expected a name that ends in .png"),
        ({"toy": 1, "loras": ("/nowhere.safetensors",)}, "/nowhere.safetensors"),
    ],
)
def test_bad_input_is_refused(checkpoint_dir, tmp_path, given, match):
    with pytest.raises(InputError, match=match):
        Eval(str(tmp_path / "eval.json"), str(checkpoint_dir), compile_cache="", **given).run()
    assert not list(tmp_path.iterdir())


def test_bad_input_is_one_line(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "eval.json")]) == 2
    assert capsys.readouterr().err == "error: nothing to measure: give --data DATASET, --toy COUNT, or both\n"


def test_data_of_other_encoders_are_refused(checkpoint_dir, tmp_path):
    other = caches.dataset(tmp_path / "data", [(2, 4, 4)])
    with pytest.raises(InputError, match=r"was encoded with another vae \(a\) than"):
        Eval(str(tmp_path / "eval.json"), str(checkpoint_dir), data=other, compile_cache="").run()


def test_samples_are_of_the_toy_worlds_form_unless_told():
    asked = Eval("eval.json")
    assert (asked.size, asked.frames, asked.cond_frames) == ("64x64", TOY.num_frames, TOY.num_cond_frames)
    filled = asked._filled_in(TOY)
    assert (filled.steps, filled.guidance, filled.max_text_tokens) == (TOY.steps, TOY.guidance, TOY.max_text_tokens)
    distilled = Eval("eval.json", distilled=True)._filled_in(TOY)
    assert (distilled.steps, distilled.guidance) == (16, 1)
    told = Eval("eval.json", distilled=True, steps=8, guidance=2.0)._filled_in(TOY)
    assert (told.steps, told.guidance) == (8, 2)


def test_distilled_sampling_is_measured(checkpoint_dir, tmp_path):
    """With the LoRA that the checkpoint has for it; without one it is refused before weights are read."""
    asked = ["--toy", 1, "--tasks", "t2v", "--languages", "en", "--frames", 1]
    plain, distilled = (run(checkpoint_dir, tmp_path, *asked, *more) for more in ((), ("--distilled", "--steps", 2)))
    assert (plain["settings"]["distilled"], distilled["settings"]["distilled"]) == (False, True)
    assert (distilled["settings"]["steps"], distilled["settings"]["guidance"]) == (2, 1)
    assert distilled["judge"]["t2v en"]["clips"] == 1
    shutil.copytree(checkpoint_dir, tmp_path / "bare", ignore=lambda *_: {"lora"})
    with pytest.raises(InputError, match=r"LoRA 'cfg_step' is not loaded and .* does not exist"):
        Eval(str(tmp_path / "x.json"), str(tmp_path / "bare"), toy=1, distilled=True, compile_cache="").run()
