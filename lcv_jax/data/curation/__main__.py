"""`python -m lcv_jax.data.curation`: run, status, inspect, report."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import tyro

from lcv_jax.command_line import parse, run_recipe, status
from lcv_jax.data.curation.pipeline import STAGES, Curation, open_library, run
from lcv_jax.data.curation.report import write_report
from lcv_jax.data.curation.shown import clips_shown, items_shown, summary
from lcv_jax.errors import InputError

PROGRAM = "python -m lcv_jax.data.curation"
USAGE = f"""usage: {PROGRAM} run configs/NAME.py --out DIR [--only STAGE ...] [--retry failed] [--key.sub VALUE ...]
       {PROGRAM} status DIR
       {PROGRAM} inspect DIR [--stage STAGE] [--where SQL] [--columns NAME ...] [--limit N]
       {PROGRAM} report DIR

run does what is still to be done of {", ".join(STAGES)}; with --help after the recipe: all keys."""


@dataclasses.dataclass(frozen=True)
class Status:
    """What became of the items of each stage, and why some were left out."""

    library: Annotated[str, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Report:
    """Writes report.html into the library: counts, distributions, clusters with pictures."""

    library: Annotated[str, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Rows of the record of clips, or what became of a stage's items."""

    library: Annotated[str, tyro.conf.Positional]
    stage: str | None = None
    """Of this stage the items, instead of clips."""
    where: str | None = None
    """A condition in SQL on the fields, such as "blur > 100 and list_contains(camera, 'static')"."""
    columns: tuple[str, ...] = ()
    """By default the most telling ones."""
    limit: int = 20


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    args = list(sys.argv[1:] if args is None else args)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    commands = {"run": _run, "status": _status, "inspect": _inspect, "report": _report}
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2

    def command() -> None:
        if args[0] not in commands:
            raise InputError(f"{args[0]!r}: no such command, expected one of {', '.join(commands)}")
        commands[args[0]](args[1:])

    return status(command, "what is done is kept, start it again to continue")


def _run(args: Sequence[str]) -> None:
    if not args or args[0].startswith("-"):
        raise InputError(f"run: expected a recipe such as configs/curation.py behind it; {PROGRAM} --help tells more")
    config, about = run_recipe(args[0])
    if not isinstance(config, Curation):
        raise InputError(f"{args[0]}: config() gave {type(config).__name__}, expected a Curation")

    @dataclasses.dataclass(frozen=True)
    class Run:
        """A recipe, and what is changed of it."""

        out: str
        """The library's folder; one that is there already is continued."""
        config: Annotated[Curation, tyro.conf.arg(name="")]
        only: tuple[str, ...] = ()
        """Stages to do; by default all."""
        retry: tuple[Literal["failed", "rejected"], ...] = ()
        """Do items again that ended so before."""

    default = Run(out=tyro.MISSING, config=config)
    asked = parse(Run, args[1:], default=default, prog=f"{PROGRAM} run {args[0]}", description=about)
    library = run(asked.config, asked.out, asked.only, asked.retry)
    print(summary(library))


def _status(args: Sequence[str]) -> None:
    asked = parse(Status, args, prog=f"{PROGRAM} status")
    print(summary(open_library(asked.library)))


def _report(args: Sequence[str]) -> None:
    asked = parse(Report, args, prog=f"{PROGRAM} report")
    print(write_report(open_library(asked.library)))


def _inspect(args: Sequence[str]) -> None:
    asked = parse(Inspect, args, prog=f"{PROGRAM} inspect")
    library = open_library(asked.library)
    if asked.stage is not None:
        print(items_shown(library, asked.stage, asked.where, asked.limit))
    else:
        print(clips_shown(library, asked.where, asked.columns, asked.limit))


if __name__ == "__main__":
    sys.exit(main())
