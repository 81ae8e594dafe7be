"""python -m lcv_jax.checkpoint: what it prints, and how it fails."""

import json
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from lcv_jax.checkpoint import convert, inspect
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
    (tmp_path / "src").symlink_to(checkpoint_dir / "text_encoder")
    src, ours, back = (str(tmp_path / name) for name in ("src", "ours", "back"))
    assert main(["import", src, ours, "--dtype", "keep", "--check-finite"]) == 0
    out = capsys.readouterr().out
    assert "732,416 bytes read" in out
    assert "MB/s" in out
    assert "left by" not in out
    (tmp_path / "back.tmp-999999999").mkdir()
    assert main(["export", ours, back, "--max-shard-size", "0.3MB"]) == 0
    out, leftover = capsys.readouterr().out, tmp_path / "back.tmp-999999999"
    assert "32 tensors, 732,416 bytes" in out
    assert f"{leftover}: left by an interrupted import or export, can be removed" in out
    assert main(["inspect", back]) == 0
    assert cells(capsys.readouterr().out, "text_encoder") == (32, 732_416, 183_104)


def test_bad_input_is_one_line_and_exit_code_2(checkpoint_dir, tmp_path):
    """In a process of its own, which imports everything that could say more: the tokenizer is checked last."""
    src = shutil.copytree(checkpoint_dir, tmp_path / "src")
    _broken_tokenizer(src)
    done = subprocess.run(
        [sys.executable, "-m", "lcv_jax.checkpoint", "import", str(src), str(tmp_path / "dst")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"error: tokenizer {src}/tokenizer: cannot be read .*; copy .* again\n", done.stderr)
    assert list(tmp_path.iterdir()) == [src]


def test_whole_checkpoint_with_its_tokenizer(checkpoint_dir, tmp_path, capfd):
    assert main(["import", str(checkpoint_dir), str(tmp_path / "ours")]) == 0
    assert "303 tensors" in capfd.readouterr().out
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        *("dit", "lora", "scheduler", "text_encoder", "tokenizer", "vae")
    ]


def _few_words(folder):
    """A text encoder of fewer rows than the tokenizer has ids, its weights cut to fit."""
    index = json.loads((folder / "text_encoder" / "model.safetensors.index.json").read_text())
    shard = folder / "text_encoder" / index["weight_map"]["shared.weight"]
    tensors = safetensors.numpy.load_file(shard)
    tensors["shared.weight"] = tensors["shared.weight"][:600]
    safetensors.numpy.save_file(tensors, shard)
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 600}))


def _empty_tokenizer(folder):
    for file in (folder / "tokenizer").iterdir():
        file.unlink()


def _broken_tokenizer(folder):
    for file in (folder / "tokenizer").iterdir():
        file.write_bytes(file.read_bytes()[:50])


def _nan(folder):
    file = min((folder / "dit").glob("*.safetensors"))
    tensors = safetensors.numpy.load_file(file)
    name = min(tensors)
    tensors[name] = np.full_like(tensors[name], np.nan)
    safetensors.numpy.save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _few_words,
            "text_encoder/config.json: vocab_size=600, but .*tokenizer has ids up to 615: expected at least 616",
        ),
        (_empty_tokenizer, "tokenizer.*: cannot be read .*; copy the tokenizer folder again"),
        (_nan, "key '.*' is nan at .*, expected finite values"),
    ],
)
def test_what_an_import_refuses_is_one_line(checkpoint_dir, tmp_path, capfd, change, message):
    """Also on the file descriptors that other libraries write to."""
    src = shutil.copytree(checkpoint_dir, tmp_path / "src")
    change(src)
    assert main(["import", str(src), str(tmp_path / "dst"), "--check-finite"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: .*{message}.*\n", err)
    assert list(tmp_path.iterdir()) == [src]


_SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
from lcv_jax.checkpoint import convert, __main__ as command

read = convert.read_cast

def slow(*args):
    print("reading", flush=True)
    time.sleep(0.1)
    return read(*args)

convert.read_cast = slow
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("command", ["import", "export"])
def test_interrupted(checkpoint_dir, tmp_path, command):
    """Ctrl-C while tensors are read and written: one line, exit status 130, nothing left."""
    src = checkpoint_dir / "text_encoder"
    if command == "export":
        src = tmp_path / "ours"
        convert.import_checkpoint(checkpoint_dir / "text_encoder", src)
    before = sorted(tmp_path.iterdir())
    arguments = [sys.executable, "-c", _SLOW, command, str(src), str(tmp_path / "dst")]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for _ in range(4):
        assert process.stdout.readline() == "reading\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "error: interrupted; nothing was written: start it again\n")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("text", "size"), [("5GB", 5 * 10**9), ("1.5 MiB", 3 * 2**19), ("700", 700), ("2kb", 2000)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "5XB", "GB", "-1GB", "0", "1e3"])
def test_sizes_that_are_none(text):
    with pytest.raises(InputError, match=r"--max-shard-size .*: expected a positive number with KB"):
        parse_size(text)
