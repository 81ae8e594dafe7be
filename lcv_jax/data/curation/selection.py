"""Selection: which clips a training stage learns from, and how often, as lists that a cache can be made of.

    selections/NAME.parquet    clip_id, weight and group of each clip
    selections/NAME.0.jsonl    the clips of a group and their captions, as lcv_jax.data.cache --source takes them
    selections/NAME.json       the condition, the tables it was asked of, and of each group its weight

Training draws the records of a dataset equally often, and datasets by weight. So clips of about the same weight are a
group, each group becomes a dataset, and the weights of datasets make those of clips.
"""

import collections
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lcv_jax.data.curation import tables
from lcv_jax.data.curation.balance import check_balance
from lcv_jax.data.curation.library import Library, write_table
from lcv_jax.data.files import replacing
from lcv_jax.data.sizes import Sizes
from lcv_jax.errors import InputError

FOLDER = "selections"
GROUPS = 8
"""At most: each is a dataset of its own."""
_STEP = 2**0.5
"""Weights of a group are within this factor, or a larger one where there would be more groups."""
_SCHEMA = pa.schema([("clip_id", pa.string()), ("weight", pa.float64()), ("group", pa.int32())])


@dataclasses.dataclass(frozen=True)
class Selection:
    """name: of the training stage. where: a condition in SQL on the fields of a clip, which may ask the table `clips`
    as well, for percentiles. balanced: clips are drawn by the weights of balance, otherwise equally often. limit: clips
    at most, drawn by the seed. languages, kinds: captions that are taken, all by default; training draws one of a
    clip's captions each time. smallest_group: clips; fewer join the group of the next weight, as a batch is of one
    group. size, frames, fps: that the clips are encoded with, as --size, --frames and --fps of lcv_jax.data.cache."""

    name: str
    where: str = "true"
    balanced: bool = True
    limit: int | None = None
    seed: int = 0
    languages: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    smallest_group: int = 64
    size: str = "480p"
    frames: tuple[int, ...] = (93,)
    fps: int = 15

    def __post_init__(self):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise InputError(f"selection {self.name!r}: expected a name of letters, digits, _ and -")
        for name in ("limit", "smallest_group", "fps"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"selection {self.name}, {name}={value}: expected at least 1")
        if not self.frames or any(length < 1 or length % 4 != 1 for length in self.frames):
            raise InputError(f"selection {self.name}, frames={self.frames}: expected numbers 4n + 1, such as 93")
        Sizes.of(self.size)


@dataclasses.dataclass(frozen=True)
class Group:
    """list: the file, under the library. clips: how many. weight: their mean. digest: of the list and of how it is
    encoded, so that what is made of it can be told from what was made of another."""

    list: str
    clips: int
    weight: float
    digest: str


@dataclasses.dataclass(frozen=True)
class Selected:
    """What `select` has written. asked: the selection's settings. tables: the folders that were asked."""

    name: str
    groups: tuple[Group, ...]
    asked: Mapping[str, Any]
    tables: Mapping[str, str]


def select(library: Library, clips: pa.Table, selection: Selection) -> Selected:
    """Writes the selection of these clips, the whole record, and prints how many each step leaves.

    Left out are near-duplicates, clips without a file or a caption that was asked for, and those too short for the
    fewest frames. Raises InputError where nothing is left, telling by what; where the condition is none; or where
    there is no balance of these clips.
    """
    check_balance(library)
    steps = [("clips", len(clips))]

    def left(table: pa.Table, what: str) -> pa.Table:
        if not len(table):
            raise InputError(f"selection {selection.name}: {what} leaves none of {steps[-1][1]} clips; ask for less")
        steps.append((what, len(table)))
        return table

    table = left(clips.filter(pc.is_valid(clips["file"])), "having a file")
    if missing := table.column("weight").null_count:
        raise InputError(f"{library.root}: {missing} of {len(table)} clips are not in the balance; run balance")
    table = left(table.filter(pc.is_null(table["duplicate_of"])), "being no near-duplicate")
    table = left(tables.where(table, selection.where, f"selection {selection.name}, where"), f"where {selection.where}")
    shortest = (min(selection.frames) - 1) / selection.fps
    what = f"lasting {min(selection.frames)} frames at {selection.fps} a second"
    table = left(table.filter(pc.greater_equal(table["seconds"], shortest)), what)
    captions = [_captions(told or (), selection) for told in table.column("captions").to_pylist()]
    what = "having a caption" + "".join(
        f" of {name} {', '.join(asked)}" for name in ("kinds", "languages") if (asked := getattr(selection, name))
    )
    told = np.array([bool(texts) for texts in captions])
    table, captions = left(table.filter(pa.array(told)), what), [texts for texts in captions if texts]
    ids = table.column("clip_id").to_pylist()
    if selection.limit is not None and selection.limit < len(ids):
        rows = _drawn(ids, selection.limit, selection.seed)
        table, captions = left(table.take(pa.array(rows)), f"a limit of {selection.limit}"), [captions[r] for r in rows]
    found = _write(library, table, captions, selection)
    print(f"selection {selection.name}: " + ", ".join(f"{count} {what}" for what, count in steps))
    return found


def read_selected(library: Library, name: str) -> Selected:
    """What `select` wrote. Raises InputError where it did not."""
    path = library.root / FOLDER / f"{name}.json"
    try:
        given = json.loads(path.read_text("utf-8"))
        groups = tuple(Group(**group) for group in given.pop("groups"))
        return Selected(groups=groups, **given)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}); run select") from error


def grouped(weights: Sequence[float], smallest: int) -> np.ndarray:
    """The group (N,) of each clip by its weight, above 0: at most GROUPS, numbered from the smallest weight.

    smallest: clips of a group; where it has fewer it joins the neighbour whose mean weight is closer, by ratio.
    """
    logs = np.log(np.asarray(weights, np.float64))
    step = max(math.log(_STEP), np.ptp(logs) / GROUPS)
    # The small excess lets weights that are whole steps apart begin a group each, whatever the rounding.
    number = np.minimum(np.floor((logs - logs.min()) / step + 1e-9), GROUPS - 1)
    _, groups = np.unique(number, return_inverse=True)
    while (counts := np.bincount(groups)).min() < smallest and len(counts) > 1:
        means = np.bincount(groups, logs) / counts
        at = int(np.argmin(counts))
        gaps = {near: abs(means[near] - means[at]) for near in (at - 1, at + 1) if 0 <= near < len(counts)}
        groups[groups == at] = min(gaps, key=gaps.__getitem__)
        _, groups = np.unique(groups, return_inverse=True)
    return groups.astype(np.int32)


def _write(library: Library, table: pa.Table, captions: Sequence[Mapping[str, str]], asked: Selection) -> Selected:
    folder = library.root / FOLDER
    ids, files, weights = (table.column(name).to_pylist() for name in ("clip_id", "file", "weight"))
    if not asked.balanced:
        weights = [1.0] * len(ids)
    numbers = grouped(weights, asked.smallest_group)
    groups = []
    for number in range(int(numbers.max()) + 1):
        rows = np.flatnonzero(numbers == number)
        lines = ({"file": os.path.relpath(files[row], FOLDER), "captions": captions[row]} for row in rows)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path = f"{asked.name}.{number}.jsonl"
        _put(folder / path, text)
        mean = float(np.mean([weights[row] for row in rows]))
        form = (asked.size, asked.frames, asked.fps)
        digest = hashlib.sha256(f"{form}{text}".encode()).hexdigest()[:8]
        groups.append(Group(f"{FOLDER}/{path}", len(rows), mean, digest))
    for stale in folder.glob(f"{asked.name}.*.jsonl"):
        if f"{FOLDER}/{stale.name}" not in {group.list for group in groups}:
            stale.unlink()
    write_table(folder / f"{asked.name}.parquet", pa.table([ids, weights, numbers], schema=_SCHEMA))
    keys = {name: table.key for name, table in library.tables.items()}
    found = Selected(asked.name, tuple(groups), json.loads(json.dumps(dataclasses.asdict(asked))), keys)
    _put(folder / f"{asked.name}.json", json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False) + "\n")
    return found


def _put(path: pathlib.Path, text: str) -> None:
    with replacing(path) as aside:
        aside.write_text(text, "utf-8")


def _captions(told: Iterable[Mapping[str, Any]], asked: Selection) -> dict[str, str]:
    """By name: language and kind, "en-basic", and from the second on a number, "en-composed-2"."""
    found: dict[str, str] = {}
    seen: collections.Counter[str] = collections.Counter()
    for one in told:
        taken = (not asked.languages or one["language"] in asked.languages) and (
            not asked.kinds or one["kind"] in asked.kinds
        )
        text = (one["text"] or "").strip()
        if taken and text:
            name = "-".join(part for part in (one["language"], one["kind"]) if part)
            seen[name] += 1
            found[name if seen[name] == 1 else f"{name}-{seen[name]}"] = text
    return found


def _drawn(ids: Sequence[str], count: int, seed: int) -> list[int]:
    """Rows in order, drawn so that few change when clips are added."""
    by_chance = sorted(range(len(ids)), key=lambda row: hashlib.sha256(f"{seed}:{ids[row]}".encode()).digest())
    return sorted(by_chance[:count])
