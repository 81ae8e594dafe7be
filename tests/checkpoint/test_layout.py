"""Finding the parts of a checkpoint."""

import dataclasses
import json

import pytest

from lcv_jax.checkpoint import layout
from lcv_jax.checkpoint.load import flatten
from lcv_jax.errors import InputError
from lcv_jax.models import zoo


def test_components_of_the_golden_checkpoint(checkpoint_dir):
    found = layout.find(checkpoint_dir)
    assert found == {name: checkpoint_dir / name for name in ("dit", "vae", "text_encoder")}
    for name, path in found.items():
        assert layout.component_of(path).name == name


@pytest.mark.parametrize("name", list(layout.COMPONENTS))
def test_table_and_full_size_model_agree(name):
    """Every leaf of the published model has a rule, and its official names lead back to it."""
    table = layout.COMPONENTS[name].table
    leaves = flatten(zoo.abstract_params(getattr(zoo.ARCHITECTURES["longcat-13b"], name)))
    seen = set()
    for path, leaf in leaves.items():
        for official, place in table.names(path, leaf.shape[0]):
            assert table.locate(official) == place
            assert official not in seen
            seen.add(official)
    assert len(seen) == {"dit": 1022, "vae": 194, "text_encoder": 242}[name]


def test_missing_folder(checkpoint_dir, tmp_path):
    assert layout.folder(checkpoint_dir, "tokenizer") == checkpoint_dir / "tokenizer"
    with pytest.raises(InputError, match=r"vae: folder is missing: expected the checkpoint's vae; complete"):
        layout.folder(tmp_path, "vae")


def test_one_model_or_a_checkpoint(checkpoint_dir, tmp_path):
    """A config.json beside the models' folders, as some repositories have it, makes no model of a checkpoint."""
    assert [layout.is_model(path) for path in (checkpoint_dir / "vae", checkpoint_dir, tmp_path)] == [
        True,
        False,
        False,
    ]
    (tmp_path / "config.json").write_text("{}")
    assert layout.is_model(tmp_path)
    (tmp_path / "dit").mkdir()
    assert not layout.is_model(tmp_path)


def test_what_belongs_together(checkpoint_dir):
    models = layout.open_models(checkpoint_dir)
    assert list(models) == list(layout.COMPONENTS)
    assert layout.read_schedule(checkpoint_dir).shift == 12
    layout.check_together(models, "tokenizer", token_ids=640)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "dit",
            {"in_channels": 8},
            r"dit/config.json: in_channels=8, but z_dim=16 in .*/vae/config.json: expected equal",
        ),
        ("dit", {"out_channels": 32}, r"out_channels=32, but z_dim=16 in .*take dit/ and vae/ from one checkpoint"),
        ("dit", {"caption_channels": 8}, r"caption_channels=8, but d_model=64 in .*/text_encoder/config.json: .* take"),
        ("vae", {"z_dim": 1, "latents_mean": (0.0,), "latents_std": (1.0,)}, "in_channels=16, but z_dim=1 in"),
        ("text_encoder", {"d_model": 128}, "caption_channels=64, but d_model=128 in"),
        (
            "text_encoder",
            {"vocab_size": 639},
            r"text_encoder/config.json: vocab_size=639, but T has ids up to 639: expected at least 640; take text_enc",
        ),
    ],
)
def test_what_does_not_belong_together(checkpoint_dir, name, change, message):
    models = layout.open_models(checkpoint_dir)
    other = dataclasses.replace(models[name].config, **change, where="config")
    models[name] = dataclasses.replace(models[name], config=other)
    with pytest.raises(InputError, match=message):
        layout.check_together(models, "T", token_ids=640)


def test_component_by_folder_name_or_not_at_all(tmp_path):
    for name in ("dit", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"_class_name": "UNet"}))
    assert layout.component_of(tmp_path / "dit").name == "dit"
    with pytest.raises(InputError, match=r"key '_class_name' is 'UNet', expected one of LongCatVideo"):
        layout.component_of(tmp_path / "other")


def test_config_errors_name_the_file(copy):
    folder = copy("dit")
    config = json.loads((folder / "config.json").read_text())
    del config["depth"]
    changes = (
        ({}, "field 'depth' is missing"),
        ({"depth": 0}, "depth=0: expected a positive whole number"),
        ({"depth": 3, "patch_size": [2, 2, 2]}, "patch_size="),
    )
    for change, message in changes:
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=f"^{folder}/config.json: {message}"):
            layout.open_model(layout.COMPONENTS["dit"], folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"dit/config.json: no such file"):
        layout.open_model(layout.COMPONENTS["dit"], folder)
