"""The checkpoint that comes with the package: the toy world's models, in the published layout."""

import pathlib

from lcv_jax.errors import InputError

FOLDER = pathlib.Path(__file__).parents[1] / "toy_checkpoint"


def default_checkpoint() -> pathlib.Path:
    """Its folder. Raises InputError if the package was installed without it."""
    if not (FOLDER / "dit").is_dir():
        raise InputError(
            f"no checkpoint is named, and the default one is not installed: {FOLDER} holds none; name a checkpoint, or "
            "install the package with its data files"
        )
    return FOLDER
