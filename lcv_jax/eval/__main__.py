"""`python -m lcv_jax.eval`: what a checkpoint has learnt."""

import logging
import os
import sys
from collections.abc import Sequence

from lcv_jax.command_line import parse, status
from lcv_jax.eval.command import Eval
from lcv_jax.eval.summary import summary


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax.sample.opened").setLevel(logging.INFO)  # it says which checkpoint is the default
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch

    def measure() -> None:
        asked = parse(Eval, args, prog="python -m lcv_jax.eval")
        print(*summary(asked.run()), asked.out, sep="\n")

    return status(measure, "no figures were written")


if __name__ == "__main__":
    sys.exit(main())
