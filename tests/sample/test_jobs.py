import pathlib

import pytest

from lcv_jax.errors import InputError
from lcv_jax.sample.jobs import Job, read_jobs


def test_one_prompt_is_one_job_with_the_plain_name():
    (job,) = read_jobs("a cat", None, "bad", 7, 1)
    assert job == Job("a cat", "bad", 7, "")
    assert job.file(pathlib.Path("x/y.mp4")) == pathlib.Path("x/y.mp4")


def test_every_prompt_with_every_seed(tmp_path):
    file = tmp_path / "p.txt"
    file.write_text("a cat\n\n 一只猫 \n", encoding="utf-8")
    jobs = read_jobs(None, file, "bad", 3, 2)
    assert [(j.prompt, j.seed) for j in jobs] == [("a cat", 3), ("a cat", 4), ("一只猫", 3), ("一只猫", 4)]
    names = [j.file(pathlib.Path("v.mp4")).name for j in jobs]
    assert names == ["v-000-seed3.mp4", "v-000-seed4.mp4", "v-001-seed3.mp4", "v-001-seed4.mp4"]


def test_jsonl_overrides_line_by_line(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a", "seed": 9}\n{"prompt": "b", "negative_prompt": "dark"}\n')
    jobs = read_jobs(None, file, "bad", 0, 1)
    assert [(j.prompt, j.negative_prompt, j.seed) for j in jobs] == [("a", "bad", 9), ("b", "dark", 0)]


def test_marks_and_line_ends_of_other_editors(tmp_path):
    text = '{"prompt": "a\u2028b"}\r\n{"prompt": "c"}\r\n'
    for name in ("p.jsonl", "p.txt"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert [j.prompt for j in read_jobs(None, tmp_path / "p.jsonl", "", 0, 1)] == ["a\u2028b", "c"]
    assert len(read_jobs(None, tmp_path / "p.txt", "", 0, 1)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n \n", "holds no prompt"),
        ("not json", "line 1: is not JSON"),
        ('"text"', 'expected an object with "prompt"'),
        ('{"prompt": "a"}\n{"seed": 1}', 'line 2: expected an object with "prompt"'),
        ('{"prompt": "a", "sed": 1}', "key 'sed' is not known"),
        ('{"prompt": 3}', "prompt=3, expected str"),
        ('{"prompt": "a", "seed": true}', "seed=True, expected int"),
        ('{"prompt": " "}', "prompt 1 is empty"),
    ],
)
def test_bad_prompt_files_raise(tmp_path, content, message):
    file = tmp_path / "p.jsonl"
    file.write_text(content)
    with pytest.raises(InputError, match=message):
        read_jobs(None, file, "", 0, 1)


def test_bad_requests_raise(tmp_path):
    with pytest.raises(InputError, match="either --prompt TEXT or --prompts FILE"):
        read_jobs(None, None, "", 0, 1)
    with pytest.raises(InputError, match="either --prompt"):
        read_jobs("a", tmp_path / "p.txt", "", 0, 1)
    with pytest.raises(InputError, match="--prompt is empty"):
        read_jobs("  ", None, "", 0, 1)
    with pytest.raises(InputError, match="cannot be read"):
        read_jobs(None, tmp_path / "none.txt", "", 0, 1)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="expected UTF-8"):
        read_jobs(None, tmp_path / "latin.txt", "", 0, 1)
    with pytest.raises(InputError, match="--videos-per-prompt=0"):
        read_jobs("a", None, "", 0, 0)
