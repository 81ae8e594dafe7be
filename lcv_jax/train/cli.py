"""The command behind train.py and lcv-train: python train.py configs/NAME.py --out DIR [--key.sub VALUE]."""

import dataclasses
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, NoReturn

import tyro

from lcv_jax.command_line import parse
from lcv_jax.errors import InputError

USAGE = "usage: train.py configs/NAME.py --out DIR [--key.sub VALUE ...]; with --help after the recipe: all keys"


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command; exits with 2 and one line on bad input."""
    args = list(sys.argv[1:] if args is None else args)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax").setLevel(logging.INFO)
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if args else 2)
    several = "--coordinator" in args or any(arg.startswith("--coordinator=") for arg in args)
    try:
        _run(args[0], args[1:])
    except InputError as error:
        _leave(several, _fail(str(error), 2))
    except KeyboardInterrupt:
        _leave(several, _fail("interrupted; the checkpoints are whole, start it again to continue", 130))
    except Exception:
        if not several:
            raise
        traceback.print_exc()
        _leave(several, 1)


def _run(recipe: str, args: Sequence[str]) -> None:
    from lcv_jax.parallel import processes
    from lcv_jax.train.config import read_recipe

    config, about = read_recipe(recipe)
    kind = type(config)

    @dataclasses.dataclass(frozen=True)
    class Command:
        """A recipe, and what is changed of it."""

        out: str
        """Folder of the run; one that is there already is continued."""
        config: Annotated[kind, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
        dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Open everything, print the plan, and stop."""
        profile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
        """Trace a few steps into DIR/profile."""
        wandb: str | None = None
        """Project of Weights & Biases to write to as well."""
        coordinator: str | None = None
        """HOST:PORT of the first of several processes, each of which runs this command."""
        num_processes: int | None = None
        """How many there are; by default as the cluster says."""
        process_id: int | None = None
        """Which one this is; by default as the cluster says."""

    default = Command(out=tyro.MISSING, config=config)
    asked = parse(Command, args, default=default, prog=f"train.py {recipe}", description=about)
    # Here, as JAX takes its time, so that --help answers at once.
    from lcv_jax.train import command

    with processes.joined(asked.coordinator, asked.num_processes, asked.process_id, sigterm="is noticed"):
        if not processes.is_main():
            logging.getLogger("lcv_jax").setLevel(logging.WARNING)
        if asked.dry_run:
            print(command.plan(command.training_of(asked.config)))
            return
        step, end = command.train(asked.config, asked.out, profile=asked.profile, wandb=asked.wandb)
        if processes.is_main():
            print(f"{asked.out}: {end} at step {step}" + (", start it again to continue" if end != "finished" else ""))


def _leave(several: bool, code: int) -> NoReturn:
    if not several:
        sys.exit(code)
    from lcv_jax.parallel import processes

    processes.leave(code)


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
