"""What is built is what is installed: data files, licence, console commands, and none of it needs the source
tree.
"""

import os
import pathlib
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def run(*command: object, cwd: pathlib.Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> pathlib.Path:
    """A folder with the source archive and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory) -> pathlib.Path:
    """The scripts of a fresh environment with the wheel in it.

    The libraries come from this environment's folder, listed in a .pth file: what is editable there is not
    visible through it.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    scheme = "nt" if os.name == "nt" else "venv"
    where = {key: pathlib.Path(sysconfig.get_path(key, scheme, {"base": home})) for key in ("purelib", "scripts")}
    (where["purelib"] / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    python = where["scripts"] / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--ignore-installed",
        wheel,
        cwd=home,
    )
    return where["scripts"]


def package_files(suffix: str) -> set[str]:
    folders = (ROOT / "lcv_jax", ROOT / "lcv_kernels")
    return {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.rglob(f"*{suffix}")}


def test_wheel_and_source_archive_hold_every_module_data_file_and_the_licence(built):
    (wheel,), (archive,) = built.glob("*.whl"), built.glob("*.tar.gz")
    expected = set().union(*map(package_files, (".py", ".json", ".safetensors", ".model")))
    in_wheel = set(zipfile.ZipFile(wheel).namelist())
    assert expected <= in_wheel
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)
    with tarfile.open(archive) as tar:
        in_archive = {name.partition("/")[2] for name in tar.getnames()}
    assert expected | {"LICENSE", "README.md", "pyproject.toml"} <= in_archive


def test_wheel_ships_the_library_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} <= {"lcv_jax", "lcv_kernels"}


def test_the_installed_package_is_not_the_source_tree(installed, tmp_path):
    file = run(installed / "python", "-c", "import lcv_jax; print(lcv_jax.__file__)", cwd=tmp_path)
    assert pathlib.Path(file.strip()).is_relative_to(installed.parent)


@pytest.mark.parametrize("command", sorted(PROJECT["scripts"]))
def test_console_commands_explain_themselves_from_anywhere(installed, tmp_path, command):
    text = run(installed / command, "--help", cwd=tmp_path)
    assert command in text or "usage" in text.lower()
    assert list(tmp_path.iterdir()) == []
