"""What one command run has to make: prompts and seeds, each with its output file."""

import dataclasses
import json
import pathlib
from typing import Any

from lcv_jax.data.text import clean
from lcv_jax.errors import InputError
from lcv_jax.sample.options import SEEDS, whole


@dataclasses.dataclass(frozen=True)
class Job:
    """One video. name: what tells its files apart from the other jobs', "" for the only one."""

    prompt: str
    negative_prompt: str
    seed: int
    name: str

    def file(self, path: pathlib.Path) -> pathlib.Path:
        """`path` with the job's name at the end of its stem."""
        return path.with_stem(path.stem + self.name)


def read_jobs(
    prompt: str | None,
    prompts: pathlib.Path | None,
    negative_prompt: str,
    seed: int,
    videos_per_prompt: int,
    *,
    shortest: int = 1,
) -> list[Job]:
    """All jobs of a command: every prompt with seeds seed, seed + 1, ...

    prompts: a file with one prompt a line, or .jsonl with objects {"prompt", and if wanted "negative_prompt", "seed"}.
    shortest: characters that a prompt must have when cleaned; 0 allows empty ones.
    Raises InputError on empty prompts, unreadable files, unknown keys, and unless exactly one of the two is given.
    """
    if (prompt is None) == (prompts is None):
        raise InputError("give either --prompt TEXT or --prompts FILE")
    whole("--videos-per-prompt", videos_per_prompt, 1)
    whole("--seed", seed, 0, SEEDS)
    entries = [{"prompt": prompt}] if prompts is None else _read(prompts)
    single = len(entries) * videos_per_prompt == 1
    jobs = []
    for i, entry in enumerate(entries):
        _check_length("--prompt" if prompts is None else f"{prompts}, prompt {i + 1}", entry["prompt"], shortest)
        first = entry.get("seed", seed)
        whole(f"the last seed of prompt {i + 1}", first + videos_per_prompt - 1, 0, SEEDS)
        for s in range(first, first + videos_per_prompt):
            name = "" if single else f"-{i:03d}-seed{s}"
            jobs.append(Job(entry["prompt"], entry.get("negative_prompt", negative_prompt), s, name))
    return jobs


def read_segments(prompts: pathlib.Path, negative_prompt: str, seed: int) -> list[Job]:
    """The segments of one video, a prompt of the file each, with seeds seed, seed + 1, ... where it gives none.

    Takes and raises what `read_jobs` does.
    """
    segments = []
    for i, entry in enumerate(_read(prompts)):
        _check_length(f"{prompts}, prompt {i + 1}", entry["prompt"], 1)
        own = whole(f"the seed of prompt {i + 1}", entry.get("seed", whole("--seed", seed, 0, SEEDS) + i), 0, SEEDS)
        segments.append(Job(entry["prompt"], entry.get("negative_prompt", negative_prompt), own, ""))
    return segments


def _check_length(where: str, prompt: str, shortest: int) -> None:
    if len(clean(prompt)) < shortest:
        raise InputError(f"{where} is empty: describe the video")


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    try:
        # "utf-8-sig" drops the mark that some editors put in front; JSON strings may hold other line ends than "\n".
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path}: cannot be read ({error}); expected UTF-8 text or .jsonl") from None
    numbered = [(n, line) for n, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise InputError(f"--prompts {path}: holds no prompt; expected one a line")
    if path.suffix != ".jsonl":
        return [{"prompt": line.strip()} for _, line in numbered]
    return [_entry(f"--prompts {path}, line {n}", line) for n, line in numbered]


def _entry(where: str, line: str) -> dict[str, Any]:
    expected = {"prompt": str, "negative_prompt": str, "seed": int}
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: is not JSON ({error.msg})") from None
    if not isinstance(entry, dict) or "prompt" not in entry:
        raise InputError(f'{where}: expected an object with "prompt"')
    for key, value in entry.items():
        if key not in expected:
            raise InputError(f"{where}: key {key!r} is not known, expected {', '.join(expected)}")
        if not isinstance(value, expected[key]) or isinstance(value, bool):
            raise InputError(f"{where}: {key}={value!r}, expected {expected[key].__name__}")
    whole(f"{where}: seed", entry.get("seed", 0), 0, SEEDS)
    return entry
