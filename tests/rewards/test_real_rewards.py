"""HPSv3 and VideoAlign: tiny models of the real classes in the published layouts, against a plain computation."""

import json
import pathlib

import numpy as np
import PIL.Image
import pytest

import tiny_qwen
from lcv_jax.errors import InputError
from lcv_jax.rewards import hpsv3, videoalign
from lcv_jax.rewards.gathering import gather
from lcv_jax.rewards.opening import check_prompts, open_rewards
from lcv_jax.rewards.protocol import RewardSettings
from lcv_jax.rewards.qwen import target_size

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("safetensors.torch")

RNG = np.random.default_rng(0)
VIDEOS = [RNG.integers(0, 256, (frames, 4, 6, 3), np.uint8).repeat(15, 1).repeat(15, 2) for frames in (4, 5)]
PROMPTS = ["a cat on a sofa", "一只猫 {x}"]
TEMPLATES = {
    "hpsv3": 'INSTRUCTION = """How good?\n{text_prompt}\n"""\nprompt_with_special_token = " Rate: <|Reward|> END"\n',
    "videoalign": 'DETAILED_PROMPT_WITH_SPECIAL_TOKEN = "<|VQ_reward|> <|MQ_reward|>: {text_prompt} <|TA_reward|>"\n',
}
CONFIG = {
    "data_config": {
        "fps": 2.0,
        "max_frame_pixels": 56 * 84,
        "num_frames": None,
        "sample_type": "uniform",
        "prompt_template_type": "detailed_special",
    },
    "model_config": {"output_dim": 1, "reward_token": "special", "use_special_tokens": True},
    "peft_lora_config": {"lora_r": 4, "lora_alpha": 8, "use_rslora": False},
    "inference_config": {"VQ_mean": 1, "VQ_std": 2, "MQ_mean": 0.3, "MQ_std": 0.5, "TA_mean": -0.2, "TA_std": 1.5},
}


@pytest.fixture(scope="module", autouse=True)
def _small():
    """Small pictures: the published sizes take seconds each on a CPU."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hpsv3, "_PIXELS", 4 * 28 * 28)
        patch.setattr(videoalign, "_LEAST_PIXELS", 28 * 28)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    """What both rewards share: the base's folder and the authors' file."""
    made = {}
    for kind, module in (("hpsv3", hpsv3), ("videoalign", videoalign)):
        made[kind] = tmp_path_factory.mktemp(kind)
        tiny_qwen.write_base(made[kind] / module.BASE)
        (made[kind] / module.SOURCE).write_text(TEMPLATES[kind])
    (made["videoalign"] / videoalign.CONFIG).write_text(json.dumps(CONFIG))
    return made


def tokenizer(folder: pathlib.Path, marks: list[str]):
    found = transformers.AutoTokenizer.from_pretrained(str(folder))
    found.add_tokens(marks, special_tokens=True)
    return found


def named(model, head, rename) -> dict:
    weights = {rename(name): tensor for name, tensor in model.state_dict().items()}
    return weights | {f"rm_head.{name}": tensor for name, tensor in head.state_dict().items()}


def by_the_library(picture: np.ndarray) -> tuple[np.ndarray, tuple]:
    """A picture as transformers' own processor cuts it."""
    size = target_size(*picture.shape[:2], 4 * 28 * 28, 4 * 28 * 28)
    scaled = PIL.Image.fromarray(picture).resize(size[::-1])
    processor = transformers.models.qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil()
    found = processor(images=[scaled], return_tensors="np", do_resize=False)
    return found["pixel_values"], tuple(int(n) for n in found["image_grid_thw"][0])


def by_hand(video: np.ndarray, most: int) -> tuple[np.ndarray, tuple]:
    """A video cut into patches, loop by loop; the last frame twice where their number is odd."""
    height, width = target_size(*video.shape[1:3], 28 * 28, most)
    frames = [np.asarray(PIL.Image.fromarray(frame).resize((width, height))) for frame in video]
    frames += frames[-1:] * (len(frames) % 2)
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    values = (np.float32(frames) / 255 - np.float32(mean)) / np.float32(std)
    patches = []
    for t in range(0, len(frames), 2):
        for y in range(0, height, 28):
            for x in range(0, width, 28):
                for dy in (0, 14):
                    for dx in (0, 14):
                        patch = values[t : t + 2, y + dy : y + dy + 14, x + dx : x + dx + 14]
                        patches.append(patch.transpose(3, 0, 1, 2).ravel())
    return np.stack(patches), (len(frames) // 2, height // 14, width // 14)


@pytest.mark.parametrize("naming", ["as published", "of today"])
def test_hpsv3_is_what_its_authors_compute(folders, naming):
    folder = folders["hpsv3"]
    model, head = tiny_qwen.model(folder / hpsv3.BASE, 1), tiny_qwen.head("hpsv3", 2)
    rename = tiny_qwen.old_name if naming == "as published" else str
    tiny_qwen.save(folder / "HPSv3.safetensors", named(model, head, rename))
    words = tokenizer(folder / hpsv3.BASE, ["<|Reward|>"])

    def expected(frame: np.ndarray, prompt: str) -> float:
        text = f"How good?\n{prompt}\n Rate: <|Reward|> END"
        return tiny_qwen.score(model, head, words, text, *by_the_library(frame), "image", ["<|Reward|>"])[0, 0]

    general, percentile = hpsv3.load(str(folder), "cpu")
    plain = [np.mean([expected(frame, "A high-quality image") for frame in video]) for video in VIDEOS]
    np.testing.assert_allclose(general(VIDEOS, PROMPTS), plain, rtol=1e-4, atol=1e-5)
    best = []
    for video, prompt in zip(VIDEOS, PROMPTS, strict=True):  # 30 % of 4 and of 5 frames are 2
        best.append(np.mean(sorted(expected(frame, prompt) for frame in video)[-2:]))
    np.testing.assert_allclose(percentile(VIDEOS, PROMPTS), best, rtol=1e-4, atol=1e-5)
    assert np.ptp(plain) > 1e-3
    assert abs(best[0] - plain[0]) > 1e-3


def test_positions_are_counted_through_and_that_matters(folders):
    """With the positions that transformers works out by itself the states are others."""
    folder = folders["videoalign"]
    model, head = tiny_qwen.model(folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    tiny_qwen.save(folder / "model.safetensors", named(model, head, tiny_qwen.old_name))
    reader = videoalign.load(str(folder), "cpu")[0].model.reader
    seen = [videoalign.see(VIDEOS[0], 28 * 28, 56 * 84)]
    ids, mask = reader._tokens(seen, ["<|VQ_reward|><|MQ_reward|><|TA_reward|>"])
    given = {
        "pixel_values_videos": torch.from_numpy(seen[0].patches),
        "video_grid_thw": torch.tensor([seen[0].grid]),
        "mm_token_type_ids": torch.from_numpy(2 * (ids == model.config.video_token_id)),
    }
    with torch.no_grad():
        other = reader.model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), **given)
    other = other.last_hidden_state[0, np.flatnonzero(ids[0] == reader.marks["<|TA_reward|>"])[0]].numpy()
    state = reader.states(seen, ["<|VQ_reward|><|MQ_reward|><|TA_reward|>"], 1)[0, 2]
    assert np.abs(state - other).max() > 0.05 * np.abs(state).max()


def expected_videoalign(folder, model, head, outputs: int, aspect: str) -> np.ndarray:
    """Normalised scores of VIDEOS under PROMPTS."""
    words, k = tokenizer(folder / videoalign.BASE, tiny_qwen.MARKS["videoalign"]), ["VQ", "MQ", "TA"].index(aspect)
    scores = []
    for video, prompt in zip(VIDEOS, PROMPTS, strict=True):
        text = f"<|VQ_reward|> <|MQ_reward|>: {prompt} <|TA_reward|>"
        if aspect == "MQ":
            luma = np.round(video @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)
            video = np.stack([luma] * 3, axis=-1)
        cut = by_hand(video, 56 * 84)
        found = tiny_qwen.score(model, head, words, text, *cut, "video", tiny_qwen.MARKS["videoalign"])
        scores.append(found[k, min(k, outputs - 1)])
    norm = CONFIG["inference_config"]
    return (np.array(scores) - norm[f"{aspect}_mean"]) / norm[f"{aspect}_std"]


@pytest.fixture
def videoalign_folder(folders, tmp_path) -> pathlib.Path:
    """A fresh folder of its own that has all but the weights."""
    for each in folders["videoalign"].iterdir():
        if each.suffix != ".safetensors":
            (tmp_path / each.name).symlink_to(each)
    return tmp_path


def own_base(folder: pathlib.Path) -> pathlib.Path:
    """Makes the base's folder, shared until now, the fixture's own."""
    base = folder / videoalign.BASE
    shared = base.resolve()
    base.unlink()
    base.mkdir()
    for each in shared.iterdir():
        (base / each.name).symlink_to(each)
    return base


def rewards_are(folder, model, head, outputs=1) -> None:
    motion, text = videoalign.load(str(folder), "cpu")
    for reward, aspect in ((motion, "MQ"), (text, "TA")):
        expected = expected_videoalign(folder, model, head, outputs, aspect)
        np.testing.assert_allclose(reward(VIDEOS, PROMPTS), expected, rtol=2e-4, atol=2e-5)
        assert np.ptp(expected) > 1e-3


@pytest.mark.parametrize("outputs", [1, 3])
def test_videoalign_whole_is_what_its_authors_compute(videoalign_folder, outputs):
    config = CONFIG | {"model_config": CONFIG["model_config"] | {"output_dim": outputs}}
    (videoalign_folder / videoalign.CONFIG).unlink()
    (videoalign_folder / videoalign.CONFIG).write_text(json.dumps(config))
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", outputs)
    tiny_qwen.save(videoalign_folder / "checkpoint-7" / "model.safetensors", named(model, head, tiny_qwen.old_name))
    (videoalign_folder / "checkpoint-6").mkdir()
    rewards_are(videoalign_folder, model, head, outputs)


def adapted(model) -> dict:
    """Random factors for some weights of a model, by the names of files; they are added to the model's weights."""
    torch.manual_seed(2)
    factors = {}
    for name in ("model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj", "visual.blocks.1.attn.qkv"):
        module = model.get_submodule(
            name.replace("model.layers", "model.language_model.layers").replace("visual", "model.visual")
        )
        down, up = torch.randn(4, module.in_features) * 0.2, torch.randn(module.out_features, 4) * 0.2
        with torch.no_grad():
            module.weight += 8 / 4 * up @ down
        factors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    return factors


def test_videoalign_as_a_lora_on_its_base(videoalign_folder):
    base = own_base(videoalign_folder)
    model, head = tiny_qwen.model(base, 3), tiny_qwen.head("videoalign", 1)
    trained = ("visual.merger.ln_q.weight", "model.embed_tokens.weight")
    weights = {tiny_qwen.old_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    extra = {f"base_model.model.{name}": weights[name] for name in trained}
    extra |= {f"base_model.model.rm_head.{name}": tensor for name, tensor in head.state_dict().items()}
    weights |= {"visual.merger.ln_q.weight": torch.zeros(32), "model.embed_tokens.weight": torch.zeros(300, 64)}
    tiny_qwen.save(base / "model.safetensors", weights)
    checkpoint = videoalign_folder / "checkpoint-11"
    factors = {f"base_model.model.{name}": tensor for name, tensor in adapted(model).items()}
    tiny_qwen.save(checkpoint / "adapter_model.safetensors", factors)
    tiny_qwen.save(checkpoint / "non_lora_state_dict.safetensors", extra)
    rewards_are(videoalign_folder, model, head)


def test_videoalign_saved_with_its_lora_attached(videoalign_folder):
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    weights = named(model, head, tiny_qwen.old_name)
    weights = {name: tensor.clone() for name, tensor in weights.items()}
    for name, factor in adapted(model).items():
        module = name.rpartition(".lora_")[0]
        if f"{module}.weight" in weights:
            weights[f"{module}.base_layer.weight"] = weights.pop(f"{module}.weight")
        weights[name.replace(".weight", ".default.weight")] = factor
    tiny_qwen.save(
        videoalign_folder / "model.safetensors", {f"base_model.model.{name}": each for name, each in weights.items()}
    )
    rewards_are(videoalign_folder, model, head)


def test_both_rewards_of_a_model_in_a_run(videoalign_folder):
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    tiny_qwen.save(videoalign_folder / "model.safetensors", named(model, head, tiny_qwen.old_name))
    settings = [RewardSettings(name, path=str(videoalign_folder)) for name in videoalign.NAMES]
    opened = open_rewards(settings)
    assert opened[0].reward.reward.model is opened[1].reward.reward.model
    assert opened[0].reward.lock is opened[1].reward.lock
    long = RNG.integers(0, 256, (38, 60, 90, 3), np.uint8)
    scored = gather(opened, [long], PROMPTS[:1], fps=15.0)
    frames = np.round(np.linspace(0, 37, 6)).astype(int)
    np.testing.assert_array_equal(scored.scores[1], opened[1].reward([long[frames]], PROMPTS[:1]))
    with pytest.raises(InputError, match=r"prompt 'a <\|im_end\|>': has '<\|' in it"):
        check_prompts(opened, ["a <|im_end|>"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: w.pop("model.norm.weight"), "no tensor for 'language_model.norm.weight'"),
        (lambda w: w.update({"visual.extra": torch.zeros(1)}), "key 'visual.extra': not known"),
        (lambda w: w.update({"extra.weight": torch.zeros(1)}), "key 'extra.weight': not known"),
        (lambda w: w.update({"model.norm.weight": torch.zeros(3)}), r"shape \(3,\), expected \(64,\)"),
        (lambda w: w.pop("model.embed_tokens.weight"), "no 'language_model.embed_tokens.weight'"),
        (lambda w: w.update({"model.embed_tokens.weight": torch.zeros(5, 64)}), "266 tokens, but the weights have 5"),
        (lambda w: w.pop("rm_head.weight"), "key 'rm_head.weight' is missing"),
        (lambda w: w.update({"rm_head.bias": torch.zeros(1)}), "key 'rm_head.bias': not known"),
        (lambda w: w.update({"rm_head.weight": torch.zeros(2, 64)}), r"shape \(2, 64\), expected \(1, 64\)"),
        (
            lambda w: w.update({"model.norm.lora_A.weight": torch.zeros(2, 2)}),
            "its other factor, lora_A or lora_B, is missing",
        ),
        (
            lambda w: w.update({f"model.nothing.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}),
            "there is no weight 'language_model.nothing.weight' to add it to",
        ),
        (
            lambda w: w.update({f"model.layers.0.mlp.up_proj.lora_{x}.weight": torch.zeros(2, 2) for x in "AB"}),
            r"\(2, 2\) and \(2, 2\) do not fit a weight of \(96, 64\)",
        ),
    ],
)
def test_weights_that_are_not_of_the_model(videoalign_folder, change, told):
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    weights = named(model, head, tiny_qwen.old_name)
    change(weights)
    tiny_qwen.save(videoalign_folder / "model.safetensors", weights)
    with pytest.raises(InputError, match=told):
        videoalign.load(str(videoalign_folder), "cpu")


def test_a_gpu_that_is_not_there(videoalign_folder):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    tiny_qwen.save(videoalign_folder / "model.safetensors", named(model, head, tiny_qwen.old_name))
    with pytest.raises(InputError, match="device cuda: torch finds none here"):
        videoalign.load(str(videoalign_folder), "cuda")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", "config.json: no such file"),
        ("tokenizer.json", r"cannot be read .*expected config\.json and the tokenizer of Qwen2-VL"),
    ],
)
def test_a_base_that_is_not_whole(videoalign_folder, name, told):
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    tiny_qwen.save(videoalign_folder / "model.safetensors", named(model, head, tiny_qwen.old_name))
    (own_base(videoalign_folder) / name).unlink()
    with pytest.raises(InputError, match=told):
        videoalign.load(str(videoalign_folder), "cpu")


def test_a_base_of_another_kind(videoalign_folder):
    model, head = tiny_qwen.model(videoalign_folder / videoalign.BASE, 3), tiny_qwen.head("videoalign", 1)
    tiny_qwen.save(videoalign_folder / "model.safetensors", named(model, head, tiny_qwen.old_name))
    config = own_base(videoalign_folder) / "config.json"
    known = json.loads(config.read_text())
    for change, told in (
        ({"model_type": "qwen2_5_vl"}, "model_type='qwen2_5_vl': expected 'qwen2_vl'"),
        ({"num_hidden_layers": 3}, "no tensor for 'language_model.layers.2"),
        ({"video_token_id": 5}, "tokenizer and config.json do not fit together"),
    ):
        config.unlink()
        config.write_text(json.dumps(known | change))
        with pytest.raises(InputError, match=told):
            videoalign.load(str(videoalign_folder), "cpu")
