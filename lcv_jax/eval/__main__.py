"""`python -m lcv_jax.eval`: what a checkpoint has learnt."""

import logging
import os
import sys
from collections.abc import Sequence

from lcv_jax.command_line import parse
from lcv_jax.errors import InputError
from lcv_jax.eval.command import Eval
from lcv_jax.eval.summary import summary


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("lcv_jax.sample.opened").setLevel(logging.INFO)  # it says which checkpoint is the default
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises to install PyTorch
    try:
        asked = parse(Eval, args, prog="python -m lcv_jax.eval")
        found = asked.run()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted, no figures were written", file=sys.stderr)
        return 130
    print(*summary(found), sep="\n")
    print(asked.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
