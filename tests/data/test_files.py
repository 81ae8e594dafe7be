"""Files appear whole or not at all."""

import os

import pytest

from lcv_jax.data.files import check_writable, replacing
from lcv_jax.errors import InputError


def test_replacing_shows_only_the_finished_file(tmp_path):
    target = tmp_path / "x.mp4"
    target.write_text("old")
    with replacing(target) as aside:
        aside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_replacing_leaves_nothing_when_the_block_raises(tmp_path):
    def fail():
        with replacing(tmp_path / "x.mp4") as aside:
            aside.write_text("half")
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path) == []


def test_replacing_reports_a_rename_that_fails(tmp_path):
    (tmp_path / "x.mp4").mkdir()
    with (
        pytest.raises(InputError, match=r"x\.mp4: cannot be written"),
        replacing(tmp_path / "x.mp4") as aside,
    ):
        aside.write_text("new")
    assert os.listdir(tmp_path) == ["x.mp4"]


def test_check_writable_leaves_nothing(tmp_path):
    assert check_writable(str(tmp_path / "x.MP4"), ".mp4") == tmp_path / "x.MP4"
    assert os.listdir(tmp_path) == []


def test_missing_folders_are_made_when_writing_begins(tmp_path):
    path = check_writable(tmp_path / "a" / "b" / "x.mp4", ".mp4")
    assert os.listdir(tmp_path) == []
    with replacing(path) as aside:
        aside.write_text("new")
    assert path.read_text() == "new"


def test_check_writable_refuses(tmp_path):
    with pytest.raises(InputError, match=r"expected a name that ends in \.mp4"):
        check_writable(tmp_path / "x.avi", ".mp4")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is not a folder"):
        check_writable(tmp_path / "file" / "no" / "x.mp4", ".mp4")
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path / "file" / "x.mp4"):
        pass
    (tmp_path / "d.mp4").mkdir()
    with pytest.raises(InputError, match="exists and is not a file"):
        check_writable(tmp_path / "d.mp4", ".mp4")
    with pytest.raises(InputError, match="cannot be written"):
        check_writable(tmp_path / f"{'x' * 250}.mp4", ".mp4")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_check_writable_refuses_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            check_writable(tmp_path / "x.mp4", ".mp4")
    finally:
        tmp_path.chmod(0o700)
