"""python -m lcv_jax.checkpoint: what it prints, and how it fails."""

import subprocess
import sys

import pytest

from lcv_jax.checkpoint import inspect
from lcv_jax.checkpoint.__main__ import main, parse_size
from lcv_jax.errors import InputError


def cells(out, component):
    """One line of the inspection table: tensors, bytes and parameters."""
    (line,) = (line for line in out.splitlines() if line.startswith(component))
    numbers = [int(word.replace(",", "")) for word in line.split() if word.replace(",", "").isdigit()]
    return numbers[0], numbers[-2], numbers[-1]


def test_inspect_named_architecture(capsys):
    assert main(["inspect", "longcat-13b"]) == 0
    out = capsys.readouterr().out
    assert "13,581,071,424" in out
    assert cells(out, "dit") == (1022, 27_162_142_848, 13_581_071_424)
    assert cells(out, "vae")[2] == 126_892_531
    assert cells(out, "text_encoder")[2] == 5_680_910_336


def test_inspect_golden_checkpoint(checkpoint_dir, capsys):
    assert main(["inspect", str(checkpoint_dir)]) == 0
    out = capsys.readouterr().out
    assert cells(out, "dit") == (77, 4_862_720, 1_215_680)
    assert cells(out, "vae") == (194, 4_088_174, 2_044_087)
    assert cells(out, "cfg_step_lora.safetensors") == (81, 3_047_520, 1_523_712)
    assert cells(out, "total") == (443, 14_877_194, 6_039_735)


def test_inspect_one_folder_or_file(checkpoint_dir):
    (row,) = inspect.inspect(checkpoint_dir / "text_encoder")
    assert (row.name, row.kind, row.tensors, row.dtypes) == ("text_encoder", "official", 32, "32 float32")
    (row,) = inspect.inspect(checkpoint_dir / "vae" / "diffusion_pytorch_model.safetensors")
    assert (row.kind, row.tensors, row.parameters) == ("safetensors", 194, 2_044_087)
    (row,) = inspect.inspect(checkpoint_dir / "lora" / "refinement_lora.safetensors")
    assert (row.kind, row.dtypes) == ("LoRA", "44 bfloat16, 15 float32")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("longcat-14b", "not one of the named architectures longcat-13b"),
        ("missing.safetensors", "no such file: expected a safetensors file"),
        ("model.bin", "pickle files"),
    ],
)
def test_inspect_nothing(path, message):
    with pytest.raises(InputError, match=message):
        inspect.inspect(path)


def test_import_and_export(checkpoint_dir, tmp_path, capsys):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "text_encoder").symlink_to(checkpoint_dir / "text_encoder")
    src, ours, back = (str(tmp_path / name) for name in ("src", "ours", "back"))
    assert main(["import", src, ours, "--dtype", "keep", "--check-finite"]) == 0
    out = capsys.readouterr().out
    assert "732,416 bytes read" in out
    assert "MB/s" in out
    assert main(["export", ours, back, "--max-shard-size", "0.3MB"]) == 0
    assert "32 tensors, 732,416 bytes" in capsys.readouterr().out
    assert main(["inspect", back]) == 0
    assert cells(capsys.readouterr().out, "text_encoder") == (32, 732_416, 183_104)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lcv_jax.checkpoint", "import", str(tmp_path), str(tmp_path / "dst")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: {tmp_path}: not a checkpoint: expected folders dit/, vae/, text_encoder/; check the path"]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "dst").exists()


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("700", 700), ("2kb", 2000)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5XB", "GB", "-1GB", "0", "1e3"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match=r"--max-shard-size .*: expected a positive number with KB"):
        parse_size(text)
