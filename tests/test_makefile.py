"""What `make demo` runs."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def demo(*variables: str) -> str:
    """The command that samples, as make would run it."""
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", "demo", *variables], cwd=ROOT, capture_output=True, text=True, check=True
    )
    _, _, command = done.stdout.replace("\\\n", " ").rpartition("sample.py")
    return " ".join(command.split())


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_the_demo_takes_the_default_checkpoint_in_its_own_form():
    prompt = '--prompt "A red circle moves to the right on a plain grey background."'
    assert demo("CHECKPOINT=") == f"t2v {prompt} --out outputs/demo.mp4"
    assert demo("CHECKPOINT=a b").startswith(f't2v --checkpoint "a b" {prompt} --height 96 --width 160')
