"""The aesthetic scorer: heads by hand, files that are refused, and, where torch is, a tiny CLIP of the real class."""

import importlib.util
import itertools
import json
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from lcv_jax.data.curation.annotate import Annotation
from lcv_jax.data.curation.scorers.aesthetic import Aesthetic, Preparation, read_head
from lcv_jax.data.curation.scorers.base import Sample
from lcv_jax.errors import InputError

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")


def write_head(path, *widths, seed=0, single=False) -> pathlib.Path:
    """Linear layers of these widths, under the names of the published ones."""
    rng, tensors = np.random.default_rng(seed), {}
    places = (0, 2, 4, 6, 7)
    for place, (wide, narrow) in zip(places, itertools.pairwise(widths), strict=False):
        prefix = "" if single else f"layers.{place}."
        tensors[f"{prefix}weight"] = rng.normal(size=(narrow, wide)).astype(np.float32)
        tensors[f"{prefix}bias"] = rng.normal(size=narrow).astype(np.float32)
    safetensors.numpy.save_file(tensors, path)
    return path


def test_a_head_is_its_layers_one_after_the_other(tmp_path):
    path = write_head(tmp_path / "head.safetensors", 8, 6, 5, 4, 3, 1)
    tensors = safetensors.numpy.load_file(path)
    given = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)
    expected = given
    for place in (0, 2, 4, 6, 7):
        expected = expected @ tensors[f"layers.{place}.weight"].T + tensors[f"layers.{place}.bias"]
    np.testing.assert_allclose(read_head(str(path))(given), expected[:, 0], rtol=1e-5)


def test_a_head_may_be_one_layer(tmp_path):
    path = tmp_path / "head.safetensors"
    safetensors.numpy.save_file({"weight": np.float32([[1, 2]]), "bias": np.float32([0.5])}, path)
    assert read_head(str(path))(np.float32([[3, 4], [0, 0]])).tolist() == [11.5, 0.5]
    with pytest.raises(InputError, match=r"is for embeddings of 2 numbers, and CLIP's have 3"):
        read_head(str(path))(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"weight": np.ones((1, 2))}, r"holds \['weight'\], expected weights and biases"),
        ({"weight": np.ones((1, 2)), "bias": np.ones(1), "x": np.ones(1)}, r"holds \['bias', 'weight', 'x'\]"),
        ({"weight": np.ones((2, 2)), "bias": np.ones(2)}, "ends in 2 numbers, expected one"),
        ({"weight": np.ones((1, 2)), "bias": np.ones(2)}, r"weight \(1, 2\) does not follow"),
        (
            {
                "layers.0.weight": np.ones((3, 2)),
                "layers.0.bias": np.ones(3),
                "layers.2.weight": np.ones((1, 2)),
                "layers.2.bias": np.ones(1),
            },
            r"layers\.2\.weight \(1, 2\) does not follow on the layer before it",
        ),
    ],
)
def test_other_heads_are_refused(tmp_path, tensors, match):
    path = tmp_path / "head.safetensors"
    safetensors.numpy.save_file({name: value.astype(np.float32) for name, value in tensors.items()}, path)
    with pytest.raises(InputError, match=match):
        read_head(str(path))


def test_without_weights_one_is_told(tmp_path):
    head = str(write_head(tmp_path / "head.safetensors", 8, 1, single=True))
    with pytest.raises(InputError, match=r"clip .*none: has no config\.json, .* docs/curation/scorers\.md tells how"):
        Annotation(scorers=(Aesthetic(str(tmp_path / "none"), head),)).decides()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"has no model\.safetensors"):
        Aesthetic(str(tmp_path), head).decides()
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"head\.pth: is a pickle, which can run code; expected safetensors"):
        Aesthetic(str(tmp_path), "head.pth").decides()
    with pytest.raises(InputError, match=r"none\.safetensors: no such file; expected safetensors"):
        Aesthetic(str(tmp_path), "none.safetensors").decides()
    with pytest.raises(InputError, match="aesthetic, frames=0: expected at least 1"):
        Aesthetic("a", "b", 0)
    first = Aesthetic(str(tmp_path), head).decides()
    write_head(tmp_path / "head.safetensors", 8, 1, single=True, seed=1)
    assert Aesthetic(str(tmp_path), head).decides() != first


def test_without_torch_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"needs torch and transformers .*pip install 'lcv_jax\[rewards\]'"):
        Aesthetic("a", "b").check()


def test_clip_sees_the_middle_square():
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 20:60] = 255
    found = Preparation(20)(picture)
    assert found.shape == (3, 20, 20)
    white = (1 - np.float32(Preparation.mean)) / np.float32(Preparation.std)
    np.testing.assert_allclose(found[:, :, 2:-2], white[:, None, None].repeat(20, 1).repeat(16, 2), rtol=1e-5)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> pathlib.Path:
    """A whole CLIP, as published ones are saved, of random weights."""
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("clip")
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text, vision = {**text, "vocab_size": 32}, {**vision, "image_size": 48, "patch_size": 16}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def pictures() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (4, 60, 100, 3), np.uint8)


@needs_torch
def test_clips_are_rated_as_the_whole_model_does(tiny, tmp_path):
    import torch
    import transformers

    head = write_head(tmp_path / "head.safetensors", 8, 4, 1)
    scorer = Aesthetic(str(tiny), str(head), frames=2)
    scorer.check()
    found = scorer.open()([Sample("a", pictures()), Sample("b", pictures()[:1])])
    assert [set(each) for each in found] == [{"aesthetic"}] * 2

    model = transformers.CLIPModel.from_pretrained(tiny).eval()
    how = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    prepare = transformers.CLIPImageProcessorPil(**how)
    given = prepare([PIL.Image.fromarray(picture) for picture in pictures()], return_tensors="pt")
    with torch.no_grad():
        embeddings = model.get_image_features(**given)
        embeddings = getattr(embeddings, "pooler_output", embeddings)
        unit = torch.nn.functional.normalize(embeddings, dim=-1).numpy()
    rated = read_head(str(head))(unit)
    assert found[0]["aesthetic"] == pytest.approx((rated[1] + rated[3]) / 2, abs=1e-4)
    assert found[1]["aesthetic"] == pytest.approx(rated[0], abs=1e-4)
    assert abs(rated[0] - rated[1]) > 1e-3


@needs_torch
def test_damaged_models_are_refused(tiny, tmp_path):
    head = write_head(tmp_path / "head.safetensors", 8, 1, single=True)
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file"):
        Aesthetic(str(tmp_path), str(head)).open()
    tensors = safetensors.numpy.load_file(tiny / "model.safetensors")
    less = {name: value for name, value in tensors.items() if "visual_projection" not in name}
    safetensors.numpy.save_file(less, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"cannot be loaded \(visual_projection\.weight does not fit or is missing"):
        Aesthetic(str(tmp_path), str(head)).open()
    other = json.loads((tiny / "config.json").read_text())
    other["vision_config"]["hidden_size"] = 64
    (tmp_path / "config.json").write_text(json.dumps(other))
    (tmp_path / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        Aesthetic(str(tmp_path), str(head)).open()
    wrong = write_head(tmp_path / "wrong.safetensors", 7, 1, single=True)
    with pytest.raises(InputError, match="embeddings of 7 numbers, and CLIP's have 8"):
        Aesthetic(str(tiny), str(wrong)).open()([Sample("a", pictures())])
