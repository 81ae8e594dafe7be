"""What real rewards need that needs no torch: sizes, patches, instructions, settings, names of weights, and what is
refused.
"""

import copy
import json
import pathlib
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_jax.checkpoint.tensorfile import TensorFile, TensorInfo, write_tensors
from lcv_jax.errors import InputError
from lcv_jax.rewards import hpsv3, videoalign
from lcv_jax.rewards.protocol import FramePick
from lcv_jax.rewards.qwen import check_prompts, published_template, see, target_size
from lcv_jax.rewards.qwen_weights import EMBEDDING, collect, the_file


@pytest.mark.parametrize(
    ("size", "least", "most", "expected"),
    [
        ((480, 832), 200704, 200704, (336, 588)),  # 17.1 x 29.7 tokens, shrunk by sqrt(480 * 832 / 200704) = 1.41
        ((64, 64), 200704, 200704, (448, 448)),
        ((60, 90), 784, 4704, (56, 84)),
        ((10, 14), 784, 10**6, (28, 28)),
        ((100, 100), 0, 10**6, (112, 112)),
        ((98, 42), 0, 10**6, (112, 56)),  # 3.5 and 1.5 tokens: to the even one
    ],
)
def test_sizes_by_hand(size, least, most, expected):
    assert target_size(*size, least, most) == expected


@given(st.integers(100, 2000), st.floats(0.5, 2), st.integers(64, 300))
def test_sizes_are_whole_tokens_within_bounds(height, ratio, tokens):
    width = round(height * ratio)
    found = target_size(height, width, 0, tokens * 784)
    assert found[0] % 28 == found[1] % 28 == 0
    assert found[0] * found[1] <= tokens * 784
    assert 0.7 < found[1] / found[0] / (width / height) < 1.4


def test_too_thin_a_picture():
    with pytest.raises(InputError, match="2001 x 10 pixels, expected no side more than 200 times the other"):
        target_size(2001, 10, 784, 784)


def test_patches_of_a_frame_that_names_its_pixels():
    """Rows of patches are blocks of 2 x 2; in a patch colours come first, then time, then rows."""
    frames = np.zeros((3, 28, 56, 3), np.uint8)
    frames[..., 0] = np.arange(3)[:, None, None] * 50
    frames[..., 1] = np.arange(56) // 14 * 10 + np.arange(28)[:, None] // 14 * 100
    seen = see(frames, 784, 10 * 784)
    assert (seen.grid, seen.tokens, seen.patches.shape) == ((2, 2, 4), 4, (16, 3 * 2 * 14 * 14))
    cut = seen.patches.reshape(16, 3, 2, 196)
    red = np.round((cut[:, 0] * 0.26862954 + 0.48145466) * 255)
    green = np.round((cut[:, 1] * 0.26130258 + 0.4578275) * 255)
    np.testing.assert_array_equal(green[:, 0, 0], [0, 10, 100, 110, 20, 30, 120, 130] * 2)
    np.testing.assert_array_equal(red[::8, :, 0], [[0, 50], [100, 100]])  # the last frame twice


def test_the_best_frames():
    assert hpsv3.best_mean(np.array([5.0])) == 5
    assert hpsv3.best_mean(np.array([1.0, 4.0, 3.0])) == 4
    assert hpsv3.best_mean(np.arange(10.0)) == 8
    assert hpsv3.best_mean(np.arange(11.0)) == 8.5


def test_grey_is_luma():
    found = videoalign.grey(np.array([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [7, 7, 7]]]], np.uint8))
    np.testing.assert_array_equal(found, [[[[76] * 3, [150] * 3, [29] * 3, [7] * 3]]])


def test_prompts_with_marks_in_them():
    check_prompts(["a < b", "a | b"])
    with pytest.raises(InputError, match=r"prompt 'a <\|Reward\|>': has '<\|' in it"):
        check_prompts(["a", "a <|Reward|>"])


def test_instructions_are_read_and_never_run(tmp_path):
    file = tmp_path / "a.py"
    file.write_text('raise SystemExit\nX: int = 1\nA = "one {text_prompt} "\nB = A\nB = """two <|m|>"""\nC = 3\n')
    assert published_template(file, ("A", "B"), ("<|m|>",)) == "one {text_prompt} two <|m|>"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "a.py: no such file: the reward needs the instructions that it was trained with"),
        ("A = ", "a.py: cannot be read as Python"),
        ("A = 3\nB = 'x'.upper()", "a.py: has no string A"),
        ("A = '{text_prompt}'", r"a.py: <\|m\|> 0 times in A, expected it once"),
        ("A = '<|m|> {text_prompt} <|m|>'", r"a.py: <\|m\|> 2 times in A, expected it once"),
        ("A = '<|m|>'", r"a.py: {text_prompt} 0 times in A, expected it once"),
    ],
)
def test_instructions_that_are_none(tmp_path, text, told):
    if text is not None:
        (tmp_path / "a.py").write_text(text)
    with pytest.raises(InputError, match=told):
        published_template(tmp_path / "a.py", ("A",), ("<|m|>",))


CONFIG = {
    "data_config": {
        "fps": 2.0,
        "max_frame_pixels": 200704,
        "num_frames": None,
        "sample_type": "uniform",
        "prompt_template_type": "detailed_special",
        "meta_data": "not looked at",
    },
    "model_config": {"output_dim": 1, "reward_token": "special", "use_special_tokens": True},
    "peft_lora_config": {"lora_r": 64, "lora_alpha": 128, "use_rslora": False},
    "inference_config": {f"{a}_{k}": v for a in ("VQ", "MQ", "TA") for k, v in (("mean", 1.5), ("std", 2))},
}


def settings(tmp_path: pathlib.Path, **changes: object) -> videoalign.Settings:
    """Of CONFIG with changes, "section/key" = value; None as a section's value takes it out."""
    config = copy.deepcopy(CONFIG)
    for path, value in changes.items():
        section, _, key = path.partition("/")
        if key:
            config[section][key] = value
        elif value is None:
            del config[section]
    (tmp_path / "model_config.json").write_text(json.dumps(config))
    return videoalign.Settings.read(tmp_path / "model_config.json")


def test_settings_of_a_published_config(tmp_path):
    found = settings(tmp_path)
    assert (found.fps, found.max_frame_pixels, found.output_dim, found.lora_scale) == (2.0, 200704, 1, 2.0)
    assert (found.mean["MQ"], found.std["TA"]) == (1.5, 2.0)
    assert found.picks == FramePick(rate=2.0, multiple=2, least=4, most=768)
    assert settings(tmp_path, **{"peft_lora_config/use_rslora": True}).lora_scale == 128 / 8
    assert settings(tmp_path, inference_config=None).std == {"VQ": 1, "MQ": 1, "TA": 1}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data_config": None}, "field 'data_config' is missing"),
        ({"data_config/fps": 0}, "fps=0: expected a positive number"),
        ({"data_config/fps": None}, "fps=None: expected a positive number"),
        ({"data_config/num_frames": 8}, "num_frames=8: expected None, the only value supported"),
        ({"data_config/sample_type": "multi_pts"}, "sample_type='multi_pts': expected 'uniform', the only value"),
        ({"data_config/prompt_template_type": "simple"}, "prompt_template_type='simple': expected 'detailed_special'"),
        ({"data_config/max_frame_pixels": 1.5}, "max_frame_pixels=1.5: expected a positive whole number"),
        ({"model_config/reward_token": "last"}, "reward_token='last': expected 'special'"),
        ({"model_config/use_special_tokens": False}, "use_special_tokens=False: expected True"),
        ({"model_config/output_dim": 2}, "output_dim=2: expected 1 or 3"),
        ({"peft_lora_config/lora_r": 0}, "lora_r=0: expected a positive whole number"),
        ({"inference_config/MQ_std": 0}, "MQ_std=0: expected a number, a standard deviation above 0"),
        ({"inference_config/TA_mean": "a"}, "TA_mean='a': expected a number"),
    ],
)
def test_settings_of_other_models(tmp_path, changes, told):
    with pytest.raises(InputError, match=told):
        settings(tmp_path, **changes)


def written(path: pathlib.Path, tensors: dict[str, np.ndarray]) -> TensorFile:
    write_tensors(path, {name: TensorInfo(each.shape, each.dtype) for name, each in tensors.items()}, tensors.get)
    return TensorFile.open(path)


def test_names_of_all_ages_and_what_is_added(tmp_path):
    ones = np.ones((2, 2), np.float32)
    base = written(
        tmp_path / "a.safetensors",
        {"model.embed_tokens.weight": ones, "visual.x": ones, "lm_head.weight": ones, "model.layers.0.q.weight": ones},
    )
    adapter = written(
        tmp_path / "b.safetensors",
        {
            "base_model.model.model.layers.0.q.lora_A.default.weight": np.float32([[1, 2]]),
            "base_model.model.model.layers.0.q.lora_B.weight": np.float32([[3], [4]]),
            "base_model.model.model.visual.x": 2 * ones,
            "base_model.model.rm_head.weight": 3 * ones,
        },
    )
    found = collect([base, adapter], scale=0.5)
    assert set(found.backbone) == {EMBEDDING, "visual.x", "language_model.layers.0.q.weight"}
    np.testing.assert_array_equal(found.read("visual.x"), 2 * ones)
    np.testing.assert_array_equal(found.read("language_model.layers.0.q.weight"), [[2.5, 4], [3, 5]])
    np.testing.assert_array_equal(found.read_head({"weight": (2, None)})["weight"], 3 * ones)
    assert found.vocabulary == 2


def test_pickles_are_never_read(tmp_path):
    (tmp_path / "model.pth").write_bytes(b"anything")
    with pytest.raises(InputError, match=r"model.pth: pickle files can run code .* make model.safetensors"):
        the_file(tmp_path, "model")
    (tmp_path / "model.pth").unlink()
    with pytest.raises(InputError, match=r"model.safetensors: no such file"):
        the_file(tmp_path, "model")


@pytest.mark.parametrize(("module", "missing"), [(hpsv3, hpsv3.SOURCE), (videoalign, videoalign.CONFIG)])
def test_a_folder_with_nothing_in_it(tmp_path, module, missing):
    with pytest.raises(InputError, match=f"{missing}: no such file"):
        module.load(str(tmp_path), "cpu")


def test_without_torch_one_is_told_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / hpsv3.SOURCE).write_text("INSTRUCTION = '{text_prompt}'\nprompt_with_special_token = '<|Reward|>'")
    written(tmp_path / "HPSv3.safetensors", {"model.embed_tokens.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(InputError, match=r"needs torch .*; install it: pip install 'lcv_jax\[rewards\]'"):
        hpsv3.load(str(tmp_path), "cpu")
