"""Checkpoints from the official layout to ours and back, one tensor in memory at a time.

A whole checkpoint must be one that can be sampled from; one model's folder is converted by itself as well.
Everything but the weights' values is checked before the first byte is written. What is written lies in
`DST.tmp-PID` until it is whole and is then renamed, so that an interrupted conversion leaves no DST. A killed
one leaves that folder, which the next conversion to DST names.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint import layout, lora, store
from lcv_jax.checkpoint.folders import appearing
from lcv_jax.checkpoint.load import check_aliases, read_cast
from lcv_jax.checkpoint.tensorfile import METADATA, PICKLES, TensorFile, TensorInfo, write_tensors
from lcv_jax.errors import InputError

Progress = Callable[[int, int], None]
"""Called with the bytes of the source read so far and their total; first with 0, when all checks have passed."""
TokenIds = Callable[[pathlib.Path], int]
"""Opens a tokenizer's folder: one more than its largest id. Raises InputError on a broken one."""


@dataclasses.dataclass(frozen=True)
class Converted:
    """What a conversion did. read, written: bytes of tensors. leftovers: what killed ones left beside DST."""

    tensors: int
    read: int
    written: int
    leftovers: tuple[pathlib.Path, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Job:
    """One model to be converted.

    folder: in source and target; "." where they are the model's own. tensors: official name -> shape and target
    dtype. stored: official name -> the name in the source.
    """

    folder: str
    model: layout.Model
    tensors: Mapping[str, TensorInfo]
    stored: Mapping[str, str]

    @property
    def written(self) -> int:
        return sum(info.nbytes for info in self.tensors.values())

    @property
    def read(self) -> int:
        return sum(self.model.source.tensors[name].nbytes for name in self.stored.values())


def import_checkpoint(
    src: os.PathLike[str] | str,
    dst: os.PathLike[str] | str,
    *,
    dtype: str | None = None,
    check_finite: bool = False,
    token_ids: TokenIds | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Official layout `src`, a checkpoint or one model's folder -> the same in our layout, `dst`.

    dtype: "bfloat16", "float32" or "keep"; None is each component's own: bfloat16 for the DiT and the text
    encoder, the source's for the VAE. Tensors that only repeat another (aliases) are stored once. check_finite:
    refuse NaN and infinity. token_ids: opens the checkpoint's tokenizer, because tokenizers are read in a room
    above; None leaves it unopened. Raises InputError.
    """
    jobs = _jobs(src, lambda component: dtype or component.dtype or "keep", token_ids)

    def write(job: _Job, folder: pathlib.Path, read: Callable[[str], np.ndarray]) -> None:
        store.save(folder / store.PARAMS, job.tensors, read)

    return _convert(src, dst, jobs, write, check_finite, progress)


def export_checkpoint(
    src: os.PathLike[str] | str,
    dst: os.PathLike[str] | str,
    *,
    max_shard_size: int = 5_000_000_000,
    token_ids: TokenIds | None = None,
    progress: Progress | None = None,
) -> Converted:
    """The inverse of `import_checkpoint`, the tensors as they are; max_shard_size in bytes."""
    jobs = _jobs(src, lambda component: "keep", token_ids)

    def write(job: _Job, folder: pathlib.Path, read: Callable[[str], np.ndarray]) -> None:
        write_shards(folder, job.model.component.stem, job.tensors, read, max_shard_size)

    return _convert(src, dst, jobs, write, False, progress)


def write_shards(
    folder: pathlib.Path,
    stem: str,
    tensors: Mapping[str, TensorInfo],
    read: Callable[[str], np.ndarray],
    max_shard_size: int,
) -> None:
    """Writes one safetensors file, or shards and their index, named as published."""
    shards = split(tensors, max_shard_size)
    if len(shards) == 1:
        write_tensors(folder / f"{stem}.safetensors", tensors, read, METADATA)
        return
    weight_map = {}
    for i, names in enumerate(shards, 1):
        file = f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        write_tensors(folder / file, {name: tensors[name] for name in names}, read, METADATA)
    size = sum(info.nbytes for info in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def split(tensors: Mapping[str, TensorInfo], max_shard_size: int) -> list[list[str]]:
    """Names in order, cut into shards of at most max_shard_size bytes; a larger tensor gets its own shard."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(tensors):
        nbytes = tensors[name].nbytes
        if shards[-1] and size + nbytes > max_shard_size:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += nbytes
    return shards


def _jobs(
    src: os.PathLike[str] | str, dtype: Callable[[layout.Component], str], token_ids: TokenIds | None
) -> list[_Job]:
    """Opens and checks all models of `src`, and what belongs to them."""
    if layout.is_model(src):
        models = {".": layout.open_model(layout.component_of(src), src)}
    else:
        models = _open_checkpoint(pathlib.Path(src), token_ids)
    jobs = []
    for folder, model in models.items():
        component = model.component
        target = dtype(component)
        aliases = dict(component.table.aliases)
        names = [name for leaf in model.leaves for name, _ in leaf.parts]
        stored = {aliases.get(name, name): name for name in names}
        tensors = {}
        for official, name in stored.items():
            info = model.source.tensors[name]
            kept = info.dtype if target == "keep" else np.dtype(jnp.dtype(target))
            tensors[official] = TensorInfo(info.shape, kept)
        jobs.append(_Job(folder, model, tensors, stored))
    return jobs


def _open_checkpoint(src: pathlib.Path, token_ids: TokenIds | None) -> dict[str, layout.Model]:
    """The models of a whole checkpoint; refuses what `Pipeline.from_pretrained` would refuse."""
    models = layout.open_models(src)
    layout.read_schedule(src)
    tokenizer = layout.folder(src, "tokenizer")
    layout.check_together(models, tokenizer, token_ids(tokenizer) if token_ids else 0)
    for path in sorted((src / "lora").glob("*.safetensors")):
        lora.modules(TensorFile.open(path), models["dit"].abstract)
    return models


def _convert(
    src: os.PathLike[str] | str,
    dst: os.PathLike[str] | str,
    jobs: Sequence[_Job],
    write: Callable[[_Job, pathlib.Path, Callable[[str], np.ndarray]], None],
    check_finite: bool,
    progress: Progress | None,
) -> Converted:
    """Copies what is not weights and lets `write` store each model, reading through what it is given."""
    src, dst = pathlib.Path(src), pathlib.Path(dst)
    copied = _other_files(src, {job.folder for job in jobs})
    size = sum(job.written for job in jobs) + sum((src / file).stat().st_size for file in copied)
    total = sum(job.read for job in jobs)
    done = 0

    def reader(job: _Job) -> Callable[[str], np.ndarray]:
        def read(name: str) -> np.ndarray:
            nonlocal done
            stored = job.stored[name]
            value = read_cast(job.model.source, stored, job.tensors[name].dtype, check_finite)
            done += job.model.source.tensors[stored].nbytes
            if progress:
                progress(done, total)
            return value

        return read

    leftovers = _leftovers(dst)
    with _aside(src, dst, size, leftovers) as aside:
        for job in jobs:
            check_aliases(job.model.source, job.model.component.table)
        if progress:
            progress(0, total)
        for file in copied:
            (aside / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(src / file, aside / file)
        for job in jobs:
            folder = aside / job.folder
            folder.mkdir(exist_ok=True)
            write(job, folder, reader(job))
    return Converted(sum(len(job.tensors) for job in jobs), total, sum(job.written for job in jobs), leftovers)


@contextlib.contextmanager
def _aside(
    src: pathlib.Path, dst: pathlib.Path, size: int, leftovers: Sequence[pathlib.Path]
) -> Iterator[pathlib.Path]:
    """`folders.appearing` outside `src`, where there is room for `size` bytes."""
    if not dst.exists() and dst.resolve().is_relative_to(src.resolve()):
        raise InputError(f"{dst}: lies inside the source {src}: expected a folder outside it; choose another")
    with appearing(dst) as aside:
        free = shutil.disk_usage(aside).free
        if free < size:
            hint = f" ({', '.join(map(str, leftovers))}: left by an interrupted import or export, can be removed)"
            raise InputError(
                f"{dst}: {amount(size)} needed, {amount(free)} free on this disk: make room"
                f"{hint if leftovers else ''}, or choose another place"
            )
        yield aside


def amount(size: int) -> str:
    """Bytes for people, in the largest unit of which there is at least one."""
    power = min((len(str(size)) - 1) // 3, 4)
    return f"{size / 1000**power:.1f} {('B', 'KB', 'MB', 'GB', 'TB')[power]}" if power else f"{size} B"


def _leftovers(dst: pathlib.Path) -> tuple[pathlib.Path, ...]:
    """Folders that killed conversions to `dst` left beside it; those of running ones are none."""
    pattern = re.compile(rf"{re.escape(dst.name)}\.tmp-(\d{{1,9}})")
    beside = sorted(dst.parent.iterdir()) if dst.parent.is_dir() else []
    return tuple(p for p in beside if (match := pattern.fullmatch(p.name)) and not _runs(int(match[1])))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def _other_files(src: pathlib.Path, models: set[str]) -> list[pathlib.Path]:
    """Everything that is copied as it is: all but weights, pickles and hidden files. Relative to `src`.

    models: folders that hold weights, relative to `src`.
    """
    files = []
    # A component's folder may be a link to another place, which a search from the root would not enter.
    paths = (path for entry in src.iterdir() for path in ([entry] if entry.is_file() else entry.rglob("*")))
    for path in sorted(paths):
        file = path.relative_to(src)
        weights = any(file.is_relative_to(model) for model in models) and (
            store.PARAMS in file.parts or file.name.endswith((".safetensors", ".safetensors.index.json"))
        )
        hidden = any(part.startswith(".") for part in file.parts)
        if path.is_file() and not weights and not hidden and file.suffix.lower() not in PICKLES:
            files.append(file)
    return files
