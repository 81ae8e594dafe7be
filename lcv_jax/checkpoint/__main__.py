"""`python -m lcv_jax.checkpoint {import,export,inspect,verify}`: convert checkpoints and look into them."""

import contextlib
import dataclasses
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import tqdm
import tyro

from lcv_jax.checkpoint import convert, hub
from lcv_jax.checkpoint import inspect as inspection
from lcv_jax.checkpoint import verify as verification
from lcv_jax.command_line import one_line, status
from lcv_jax.data.text import Tokenizer
from lcv_jax.errors import InputError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclasses.dataclass(frozen=True)
class Import:
    """Turn a checkpoint of the official layout (or a hub id) into ours."""

    src: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A checkpoint or one model's folder in the official layout, or a hub id."""
    dst: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """New folder."""
    dtype: Literal["bfloat16", "float32", "keep"] | None = None
    """Of the weights; by default bfloat16 for DiT and text encoder, and the VAE as it is."""
    check_finite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Refuse weights with NaN or infinity."""

    def run(self) -> int:
        src = hub.resolve(self.src)
        with _bar("import") as progress:
            done = convert.import_checkpoint(
                src,
                self.dst,
                dtype=self.dtype,
                check_finite=self.check_finite,
                token_ids=_token_ids,
                progress=progress,
            )
        _report(self.dst, done)
        return 0


@dataclasses.dataclass(frozen=True)
class Export:
    """Turn a checkpoint of our layout into the official one, bit for bit; or what a run has trained."""

    src: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """A checkpoint or one model's folder in our layout, or RUN/checkpoints/STEP."""
    dst: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """New folder; of a run that trained a LoRA a new .safetensors file."""
    max_shard_size: str = "5GB"
    """Tensor bytes in one file: a number with KB, MB, GB, KiB, MiB or GiB."""
    weights: Literal["ema", "trained"] | None = None
    """Of a run: its running mean or its last parameters; by default the mean if there is one."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Of a run's weights; by default bfloat16."""
    base: str | None = None
    """Of a run: the checkpoint whose other models are copied; by default the one it was trained with."""

    def run(self) -> int:
        size = parse_size(self.max_shard_size)
        # Here, because what only runs of training need takes its time to import.
        from lcv_jax.train.export import export_run
        from lcv_jax.train.weights import is_run

        own = {"weights": self.weights, "dtype": self.dtype, "base": self.base}
        if is_run(self.src):
            given = {name: value for name, value in own.items() if value is not None}
            print(f"{self.dst}: {export_run(self.src, self.dst, max_shard_size=size, **given):,} tensors")
            return 0
        if set(own.values()) != {None}:
            raise InputError(f"{self.src}: is no RUN/checkpoints/STEP: leave out --weights, --dtype and --base")
        with _bar("export") as progress:
            done = convert.export_checkpoint(
                self.src, self.dst, max_shard_size=size, token_ids=_token_ids, progress=progress
            )
        _report(self.dst, done)
        return 0


@dataclasses.dataclass(frozen=True)
class Inspect:
    """List tensors, dtypes, bytes and parameters; reads headers only."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A checkpoint, a model's folder, a safetensors file, or a name such as longcat-13b."""

    def run(self) -> int:
        print(inspection.table(inspection.inspect(self.path)))
        return 0


@dataclasses.dataclass(frozen=True)
class Verify:
    """Compare a checkpoint's models with arrays dumped from another implementation (docs/verify.md)."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """A checkpoint or one model's folder, in either layout."""
    reference: Annotated[str, tyro.conf.arg(metavar="NPZ")]
    """npz file of inputs and outputs."""
    tolerance: float = 1e-3
    """Largest error allowed, in standard deviations of the reference."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """In which the models are run."""

    def run(self) -> int:
        compared = verification.verify(self.path, self.reference, self.dtype)
        print(verification.table(compared, self.tolerance))
        return 0 if all(c.ok(self.tolerance) for c in compared) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns 0; 1 when `verify` found a difference; 2 after one line about bad input, 130 after one about Ctrl-C.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    commands = {"import": Import, "export": Export, "inspect": Inspect, "verify": Verify}

    def run() -> int:
        with one_line():
            command = tyro.extras.subcommand_cli_from_dict(commands, args=argv, prog="lcv-checkpoint")
        return command.run()

    return status(run, "nothing was written: start it again")


def parse_size(text: str) -> int:
    """Bytes of a size such as 5GB or 500MiB; raises InputError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if not match or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise InputError(f"--max-shard-size {text!r}: expected a positive number with KB, MB, GB, KiB, MiB or GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _token_ids(tokenizer: pathlib.Path) -> int:
    return Tokenizer.open(tokenizer).token_ids


def _report(dst: str, done: convert.Converted) -> None:
    print(f"{dst}: {done.tensors:,} tensors, {done.written:,} bytes")
    for path in done.leftovers:
        print(f"{path}: left by an interrupted import or export, can be removed")


@contextlib.contextmanager
def _bar(title: str) -> Iterator[convert.Progress]:
    """A progress bar over the source's bytes, and the rate at the end.

    It begins with the first progress, so that what the checks refuse is one line; and it is for terminals only, so
    that the same holds in a log of what is refused while weights are read.
    """
    with contextlib.ExitStack() as stack:
        bar, start, read = None, time.perf_counter(), 0

        def progress(done: int, total: int) -> None:
            nonlocal bar, start, read
            if bar is None:
                start = time.perf_counter()
                bar = stack.enter_context(tqdm.tqdm(desc=title, total=total, unit="B", unit_scale=True, disable=None))
            bar.update(done - read)
            read = done

        yield progress
    seconds = time.perf_counter() - start
    print(f"{title}: {read:,} bytes read in {seconds:.1f} s, {read / 1e6 / seconds:.0f} MB/s")


if __name__ == "__main__":
    sys.exit(main())
