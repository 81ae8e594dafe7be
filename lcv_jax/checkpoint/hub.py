"""A checkpoint given as a folder, or as the id of a repository on the Hugging Face hub."""

import os
import pathlib
import re

import huggingface_hub
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from lcv_jax.errors import InputError

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = ("config.json", "*.safetensors", "*.safetensors.index.json", "params/*")
# Only what we read: no pickles, no pictures.
PATTERNS = (
    *(f"{model}/{pattern}" for model in ("dit", "vae", "text_encoder") for pattern in _WEIGHTS),
    *(f"tokenizer/*.{kind}" for kind in ("json", "model", "txt")),
    "scheduler/*.json",
    "lora/*.safetensors",
)


def resolve(
    path_or_repo: os.PathLike[str] | str,
    revision: str | None = None,
    *,
    endpoint: str | None = None,
    cache_dir: os.PathLike[str] | str | None = None,
) -> pathlib.Path:
    """The local folder of a checkpoint: `path_or_repo` if it is one, else a snapshot of that hub repository.

    revision: branch, tag or commit, only for the hub. endpoint, cache_dir: another hub address, another
    cache; the defaults are huggingface_hub's. Raises InputError on what is neither, and on every failure
    to download.
    """
    path = pathlib.Path(path_or_repo)
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{path}: a file, expected a checkpoint's folder or a hub id; give the folder")
    repo = str(path_or_repo)
    if not _ID.fullmatch(repo):
        raise InputError(f"{repo}: no such folder, and not a hub id like 'organisation/name'; check the path")
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(PATTERNS), endpoint=endpoint, cache_dir=cache_dir
        )
    except GatedRepoError:
        raise InputError(f"{repo}: the hub wants you to accept terms first: do so there and log in") from None
    except RevisionNotFoundError:
        raise InputError(f"{repo}: revision {revision!r} does not exist on the hub: check its name") from None
    except RepositoryNotFoundError:
        raise InputError(f"{repo}: no such folder, and no such repository on the hub; check the name") from None
    except Exception as error:  # the client lets its HTTP library's errors through, and which one varies
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{repo}: no such folder, and downloading it from the hub failed ({reason}): check the network, "
            "or download it elsewhere and give the folder"
        ) from None
    return pathlib.Path(snapshot)
