"""Folders of the official layout, whole and damaged."""

import json

import numpy as np
import pytest
import safetensors.numpy

from lcv_jax.checkpoint.source import SafetensorsSource, read_json
from lcv_jax.errors import InputError

INDEX = "diffusion_pytorch_model.safetensors.index.json"


def _shards(folder):
    return sorted(folder.glob("*.safetensors"))


def _edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index)
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(("name", "count"), [("dit", 77), ("vae", 194), ("text_encoder", 32)])
def test_reads_what_the_reference_library_reads(checkpoint_dir, name, count):
    source = SafetensorsSource(checkpoint_dir / name)
    assert len(source.tensors) == count
    for shard in _shards(checkpoint_dir / name):
        for key, value in safetensors.numpy.load_file(shard).items():
            assert source.file(key) == shard
            assert b"".join(part.tobytes() for part in source.chunks(key)) == value.tobytes()
            assert source.tensors[key].shape == value.shape
            assert source.tensors[key].dtype == value.dtype
            np.testing.assert_array_equal(source.read(key).view(np.uint8), value.view(np.uint8))


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"no such folder: expected config.json and safetensors files"):
        SafetensorsSource(tmp_path / "dit")


def test_missing_shard(copy):
    folder = copy("dit")
    _shards(folder)[1].unlink()
    with pytest.raises(InputError, match=f"00002-of-00004.*: shard is missing, {INDEX} names it: complete"):
        SafetensorsSource(folder)


def test_truncated_shard(copy):
    folder = copy("dit")
    shard = _shards(folder)[2]
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"00003-of-00004.safetensors is truncated: 1254832 bytes, .* 1255832"):
        SafetensorsSource(folder)


def test_index_names_a_tensor_that_its_shard_lacks(copy):
    folder = copy("dit")
    _edit_index(folder, lambda index: index["weight_map"].update({"blocks.9.x": _shards(folder)[0].name}))
    with pytest.raises(InputError, match=r"key 'blocks.9.x' is not in .*00001-of-00004.* download both again"):
        SafetensorsSource(folder)


def test_shard_has_a_tensor_that_the_index_lacks(copy):
    folder = copy("dit")
    _edit_index(folder, lambda index: index["weight_map"].pop("final_layer.linear.bias"))
    with pytest.raises(InputError, match=r"key 'final_layer.linear.bias' is not listed there by"):
        SafetensorsSource(folder)


def test_two_shards_hold_the_same_tensor(copy, rewrite):
    folder = copy("dit")
    rewrite(_shards(folder)[3], lambda t: t.update({"blocks.0.attn.k_norm.weight": np.zeros(32, np.float32)}))
    with pytest.raises(InputError, match=r"00004-of-00004.*key 'blocks.0.attn.k_norm.weight' is not listed there"):
        SafetensorsSource(folder)


@pytest.mark.parametrize("weight_map", [None, [1], {"a": 3}])
def test_index_without_a_weight_map(copy, weight_map):
    folder = copy("dit")
    _edit_index(folder, lambda index: index.update(weight_map=weight_map))
    with pytest.raises(InputError, match="key 'weight_map' is missing or not name -> file"):
        SafetensorsSource(folder)


def test_index_may_not_leave_its_folder(copy):
    folder = copy("dit")
    _edit_index(folder, lambda index: index["weight_map"].update(a="../vae/x.safetensors"))
    with pytest.raises(InputError, match=r"shard '../vae/x.safetensors' is not a plain file name"):
        SafetensorsSource(folder)


def test_pickles_instead_of_safetensors(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"only pickle files \(pytorch_model.bin\).* expected safetensors"):
        SafetensorsSource(tmp_path)


def test_shards_without_an_index(copy):
    folder = copy("dit")
    (folder / INDEX).unlink()
    with pytest.raises(InputError, match="4 safetensors files and 0 indexes: expected one file, or shards"):
        SafetensorsSource(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "not valid JSON"), ("[]", "a JSON list, expected an object"), (None, "no such file: expected")],
)
def test_json(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as error:
        read_json(path)
    assert str(path) in str(error.value)
