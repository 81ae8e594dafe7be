"""Models of folders: tiny random ones of the real classes, through the real library."""

import pathlib

import numpy as np
import pytest

from captioned_clips import captioned_library
from lcv_jax.data.curation.captioning import Captioning
from lcv_jax.data.curation.cinematography import read_answer
from lcv_jax.data.curation.fingerprints import fingerprint
from lcv_jax.data.curation.speakers import ModelFailed, ModelSettings, Question, check_speaker, open_speaker
from lcv_jax.errors import InputError

FEW = {"size": ("near", "far"), "lens": ("long", "wide", "odd")}
RNG = np.random.default_rng(0)
FRAMES = [RNG.integers(0, 256, (56, 84, 3), np.uint8) for _ in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, pathlib.Path]:
    torch = pytest.importorskip("torch")
    import tiny_vlm

    torch.set_num_threads(1)  # models this small are slower with more, and much slower beside other tests

    root = tmp_path_factory.mktemp("models")
    made = {"qwen": tiny_vlm.write_qwen, "llava": tiny_vlm.write_llava, "writer": tiny_vlm.write_writer}
    for name, write in made.items():
        write(root / name)
    return {name: root / name for name in made}


def opened(folder: pathlib.Path, **how):
    return open_speaker(ModelSettings(path=str(folder), **how))


@pytest.mark.parametrize("name", ["qwen", "llava"])
def test_answers_with_fields_always_fit_and_depend_on_the_pictures(folders, name):
    speaker = opened(folders[name])
    found = [speaker(Question("How?", [frame], FEW)) for frame in (*FRAMES, *(255 - frame for frame in FRAMES))]
    assert all(read_answer(text, FEW) for text in found)
    assert speaker(Question("How?", FRAMES[:1], FEW)) == found[0]
    assert len(set(found)) > 1


@pytest.mark.parametrize("name", ["qwen", "llava"])
def test_pictures_reach_the_model_one_by_one(folders, name):
    speaker = opened(folders[name])
    counts = [speaker._inputs(Question("How?", FRAMES[:count]))["input_ids"].shape[1] for count in (0, 1, 2, 3)]
    if name == "qwen":
        # 56 x 84 pixels are 2 x 3 tokens, and a mark before and behind.
        assert np.diff(counts).tolist() == [8, 8, 8]
    else:
        # One is seen at once and in parts; several are 4 tokens and a new line each.
        assert counts[3] - counts[2] == 5
        assert counts[2] - counts[0] == 10


def test_the_likeliest_answer_is_what_the_library_says(folders):
    """Against generate on inputs put together by hand."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    speaker = opened(folders["writer"], most_tokens=12)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folders["writer"]))
    model = transformers.AutoModelForCausalLM.from_pretrained(str(folders["writer"])).eval()
    ids = tokenizer("<|im_start|>user\nHow?<|im_end|>\n<|im_start|>assistant\n", return_tensors="pt")["input_ids"]
    said = []
    for _ in range(12):
        with torch.no_grad():
            said.append(
                int(model(input_ids=torch.cat([ids, torch.tensor([said], dtype=int)], 1)).logits[0, -1].argmax())
            )
    if said[-1] == 258:
        assert speaker(Question("How?")) == tokenizer.decode(said, skip_special_tokens=True)
    else:
        with pytest.raises(ModelFailed, match="longer than 12 tokens; raise most_tokens"):
            speaker(Question("How?"))


def test_a_form_allows_just_its_answers():
    pytest.importorskip("torch")
    import torch

    from lcv_jax.data.curation.local_vlm import _Form, answers

    assert answers({"a": ("x", "y"), "b": ("z",)}) == ['{"a": "x", "b": "z"}', '{"a": "y", "b": "z"}']
    form = _Form([[1, 2], [1, 3, 4]], end=9)
    allowed = form.after(2)
    behind = {(): [1], (1,): [2, 3], (1, 3): [4], (1, 2): [9], (1, 3, 4): [9], (1, 3, 4, 9): [9]}
    for said, expected in behind.items():
        assert allowed(0, torch.tensor([7, 7, *said])) == expected
    assert form.longest == 4
    with pytest.raises(ValueError, match="160000 different answers, expected at most 100000"):
        answers({name: tuple("abcdefghijklmnopqrst") for name in "wxyz"})


def test_clips_are_captioned_by_folders_alone(folders, tmp_path):
    """Words of a random model are no caption; its constrained answers are answers."""
    model = ModelSettings(path=str(folders["qwen"]), most_tokens=16)
    made = Captioning(kinds=("cinematography", "composed"), video=model, frames=2)
    made.check()
    library = captioned_library(tmp_path, {"a": "A dog"}, {"a": ["static"]})
    worker = made.open(library)
    (task,) = made.tasks(library)
    (row,) = worker(task.given)
    assert row["invalid_answers"] == 0
    assert [each["kind"] for each in row["captions"]] == ["told", "composed"]
    asked = made.decides()["video"]["model"]
    assert asked == {"name": "qwen", "weights": fingerprint(str(folders["qwen"]))}


def test_one_model_that_sees_and_writes_is_loaded_once(folders, tmp_path):
    model = ModelSettings(path=str(folders["qwen"]))
    worker = Captioning(video=model, writer=model).open(captioned_library(tmp_path, {}, {}))
    assert worker.video is worker.writer


def test_what_is_wrong_with_a_folder_is_told(folders, tmp_path):
    with pytest.raises(InputError, match=r"has no config.json; expected the folder of a model"):
        check_speaker(ModelSettings(path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"its config.json cannot be read"):
        check_speaker(ModelSettings(path=str(tmp_path)))
    half = tmp_path / "half"
    half.mkdir()
    for file in folders["qwen"].iterdir():
        if file.suffix != ".safetensors":
            (half / file.name).write_bytes(file.read_bytes())
    check_speaker(ModelSettings(path=str(half)))
    with pytest.raises(InputError, match=r"half: cannot be read .*; download it again"):
        opened(half)
    (half / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(InputError, match=r"half: cannot be read .*; download it again"):
        opened(half)
    with pytest.raises(InputError, match="torch finds none here"):
        check_speaker(ModelSettings(path=str(folders["qwen"]), device="cuda"))
    with pytest.raises(InputError, match="writer: sees no pictures; name one that does"):
        opened(folders["writer"])(Question("What is this?", FRAMES))


def test_torch_that_is_missing_is_told(tmp_path):
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(InputError, match="models of a folder need torch"):
            check_speaker(ModelSettings(path=str(tmp_path)))
    else:
        pytest.skip("torch is installed")


def test_fingerprints_are_of_bytes_not_of_places(tmp_path):
    large = np.random.default_rng(0).integers(0, 256, 3 << 20, np.uint8)
    for name in "ab":
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "model.safetensors").write_bytes(large.tobytes())
        (tmp_path / name / "config.json").write_text("{}")
    first = fingerprint(str(tmp_path / "a"))
    assert fingerprint(str(tmp_path / "b")) == first
    (tmp_path / "b" / "README.md").write_text("words")
    assert fingerprint(str(tmp_path / "b")) == first
    (tmp_path / "b" / "config.json").write_text("{ }")
    changed = fingerprint(str(tmp_path / "b"))
    (tmp_path / "b" / "config.json").write_text("{}")
    large[-1] ^= 1
    (tmp_path / "b" / "sub" / "model.safetensors").write_bytes(large.tobytes())
    assert len({first, changed, fingerprint(str(tmp_path / "b"))}) == 3
    file = tmp_path / "a" / "config.json"
    assert fingerprint(str(file)) != first
    with pytest.raises(InputError, match="no such model: expected a folder"):
        fingerprint(str(tmp_path / "c"))
