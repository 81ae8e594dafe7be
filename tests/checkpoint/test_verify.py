"""verify: agrees with the golden files, names what differs, refuses what is no dump."""

import numpy as np
import pytest
import safetensors.numpy

from lcv_jax.checkpoint.__main__ import main
from lcv_jax.checkpoint.verify import Comparison, table, verify
from lcv_jax.errors import InputError


def dump(path, arrays):
    np.savez(path, **arrays)
    return path


def test_dit_blocks_against_the_goldens(checkpoint_dir, goldens, capsys):
    path = checkpoint_dir.parent / "dit_t2v.npz"
    assert main(["verify", str(checkpoint_dir), "--reference", str(path), "--tolerance", "3e-4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    blocks = ["hidden_block_0", "hidden_block_1", "hidden_block_2"]
    assert names == ["hidden_patch_embed", "t_emb", "y_emb", *blocks, "output"]
    assert all(line.endswith(" ok") for line in lines[1:])
    std = goldens("dit_t2v")["output"].std()
    assert float(lines[-1].split()[2]) == pytest.approx(std, rel=1e-3)


def test_condition_frames_and_per_frame_timesteps(checkpoint_dir):
    compared = verify(checkpoint_dir / "dit", checkpoint_dir.parent / "dit_i2v.npz", "float32")
    assert [c.name for c in compared][-1] == "output"
    assert all(c.error < 3e-4 for c in compared)


def test_the_first_wrong_block_is_named(checkpoint_dir, copy, rewrite, capsys):
    folder = copy("dit")
    (shard,) = (
        path for path in folder.glob("*.safetensors") if "blocks.1.ffn.w2.weight" in safetensors.numpy.load_file(path)
    )
    rewrite(shard, lambda tensors: tensors["blocks.1.ffn.w2.weight"].__imul__(1.1))
    path = checkpoint_dir.parent / "dit_t2v.npz"
    assert main(["verify", str(folder), "--reference", str(path)]) == 1
    verdicts = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()[1:]}
    assert verdicts["hidden_block_0"] == "ok"
    assert verdicts["hidden_block_1"] == "NO"


def test_text_encoder_and_vae_cases_by_prefix(checkpoint_dir, goldens, tmp_path):
    text, vae = goldens("umt5"), goldens("vae")
    arrays = {f"short_{k}": text[f"short_{k}"][:2] for k in ("input_ids", "attention_mask", "last_hidden_state")}
    arrays |= {f"f5_{k}": vae[f"f5_{k}"] for k in ("video", "enc_mean", "enc_logvar")}
    compared = verify(checkpoint_dir, dump(tmp_path / "d.npz", arrays), "float32")
    assert [c.name for c in compared] == ["short_last_hidden_state", "f5_enc_mean", "f5_enc_logvar"]
    assert all(c.ok(1e-4) for c in compared)


def test_modules_of_the_decoder(checkpoint_dir, goldens, tmp_path):
    """Outputs are found under the official module names; the first equals the convolution done by hand."""
    z = goldens("vae")["f1_latent_denormalized"]
    tensors = safetensors.numpy.load_file(checkpoint_dir / "vae" / "diffusion_pytorch_model.safetensors")
    tensors = {name: value.astype(np.float32) for name, value in tensors.items() if "conv" in name}
    post = tensors["post_quant_conv.weight"][:, :, 0, 0, 0]
    x = np.einsum("oc,bcthw->bothw", post, z) + tensors["post_quant_conv.bias"][:, None, None, None]
    padded = np.pad(x[:, :, 0], ((0, 0), (0, 0), (1, 1), (1, 1)))
    kernel = tensors["decoder.conv_in.weight"][:, :, 2]  # the frames before the first are zeros
    size = x.shape[-1]
    out = sum(
        np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i : i + size, j : j + size])
        for i in range(3)
        for j in range(3)
    )
    out = out[:, :, None] + tensors["decoder.conv_in.bias"][:, None, None, None]
    arrays = {"latent_denormalized": z, "decoder.conv_in": out}
    (compared,) = verify(checkpoint_dir / "vae", dump(tmp_path / "d.npz", arrays), "float32")
    assert compared.name == "decoder.conv_in"
    assert compared.error < 1e-4


def test_tolerance_is_in_standard_deviations():
    assert Comparison("a", error=0.2, std=2.0).ok(0.1)
    assert not Comparison("a", error=0.3, std=2.0).ok(0.1)
    assert not Comparison("a", error=float("nan"), std=2.0).ok(0.1)
    assert table([Comparison("a", 0.3, 2.0)], 0.1).splitlines()[1].split() == ["a", "3.000e-01", "2.000e+00", "NO"]


IDS = np.ones((1, 4), np.int64)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IDS}, r"no inputs found: expected one of hidden_states, input_ids, video"),
        ({"input_ids": IDS}, r"key 'attention_mask' is missing from the dump"),
        ({"input_ids": IDS, "attention_mask": IDS}, r"inputs but no outputs to compare with"),
        (
            {"input_ids": IDS, "attention_mask": IDS, "last_hidden_state": np.zeros((1, 4, 3))},
            r"key 'last_hidden_state' of the dump has shape \[1, 4, 3\], expected \[1, 4, 64\]",
        ),
        ({"input_ids": np.array([{}])}, r"cannot be read as an npz file of arrays .*write it anew"),
    ],
)
def test_what_is_no_dump(checkpoint_dir, tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        verify(checkpoint_dir, dump(tmp_path / "d.npz", arrays), "float32")


def test_dump_of_another_model(checkpoint_dir):
    with pytest.raises(InputError, match=r"holds the vae, the dump is of the dit: give that folder"):
        verify(checkpoint_dir / "vae", checkpoint_dir.parent / "dit_i2v.npz", "float32")


def test_missing_dump(checkpoint_dir):
    with pytest.raises(InputError, match=r"nothing.npz: cannot be read as an npz file"):
        verify(checkpoint_dir, "nothing.npz", "float32")


def test_the_document_lists_what_is_compared(checkpoint_dir):
    """docs/verify.md names every key that the golden dumps use."""
    text = (checkpoint_dir.parents[2] / "docs" / "verify.md").read_text()
    for name in ("hidden_states", "timestep", "y_emb", "input_ids", "last_hidden_state", "enc_mean", "decoded"):
        assert f"`{name}`" in text
