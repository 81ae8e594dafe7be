"""Models that answer in words, of a server or of a folder: the one way in which curation asks them."""

import dataclasses
import os
import pathlib
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from lcv_jax.data.curation.fingerprints import fingerprint
from lcv_jax.errors import InputError

Device = Literal["cpu", "cuda"]
Fields = Mapping[str, tuple[str, ...]]
"""Names, and the values that each may have."""


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """frames: pictures (H, W, 3) uint8 that it is about, in order. fields: the answer shall be a JSON object of these
    names, each with one of its values; None is free text."""

    text: str
    frames: Sequence[np.ndarray] = ()
    fields: Fields | None = None


class Speaker(Protocol):
    """name: of the model, for rows. Asked, it gives its answer as it is. Raises ModelFailed where there is none, and
    InputError where the model will not answer this question."""

    name: str

    def __call__(self, question: Question) -> str: ...


class ModelFailed(RuntimeError):
    """No answer: a server that cannot be reached or fails, an answer that is empty or cut off. Another try may help."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """url: of an OpenAI-compatible server, such as http://localhost:8000/v1. name: of the model there. path: instead of
    a server, a folder with a model for transformers. Neither: no model. key_variable: the name of the environment
    variable that holds the server's key, read when a worker opens. timeout_s: of a request. retries: of a request, with
    growing pauses, while the server is busy, fails or does not answer. temperature: of a server's model, None leaves it
    to the server; models of a folder always give their likeliest answer. most_tokens: of an answer. device: of a
    folder's model."""

    url: str | None = None
    name: str | None = None
    path: str | None = None
    key_variable: str | None = None
    timeout_s: float = 120.0
    retries: int = 4
    temperature: float | None = 0.0
    most_tokens: int = 512
    device: Device = "cpu"

    def __post_init__(self):
        if self.url is not None:
            _check_url(self.url)
            if self.path is not None:
                raise InputError(f"model, url={self.url!r} and path={self.path!r}: expected one of them")
            if not self.name:
                raise InputError(f"model, url={self.url!r}: expected the name by which that server knows the model")
        elif self.key_variable is not None:
            raise InputError("model, key_variable: is of servers, and there is no url")
        if self.key_variable is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable):
            raise InputError("model, key_variable: expected the name of an environment variable, not a key itself")
        if not self.timeout_s > 0:
            raise InputError(f"model, timeout_s={self.timeout_s}: expected seconds above 0")
        for name, least in (("retries", 0), ("most_tokens", 1)):
            if getattr(self, name) < least:
                raise InputError(f"model, {name}={getattr(self, name)}: expected at least {least}")
        if self.temperature is not None and not self.temperature >= 0:
            raise InputError(f"model, temperature={self.temperature}: expected at least 0")

    @property
    def given(self) -> bool:
        return self.url is not None or self.path is not None

    @property
    def said_name(self) -> str:
        """As rows have it."""
        return self.name or pathlib.Path(self.path or "").expanduser().resolve().name

    def decides(self) -> Mapping[str, Any] | None:
        """What decides answers: not where the model is. Raises InputError where a folder has no model."""
        if self.url is not None:
            return {"name": self.name, "temperature": self.temperature}
        return {"name": self.said_name, "weights": fingerprint(self.path)} if self.path is not None else None

    def key(self) -> str | None:
        """The server's key. Raises InputError where the variable is not set; the message does not repeat its name,
        which may be a key that was put in its place."""
        if self.key_variable is None:
            return None
        key = os.environ.get(self.key_variable, "").strip()
        if not key:
            raise InputError(
                f"model {self.name}: key_variable names an environment variable that is not set here; set it on every "
                "machine that workers run on"
            )
        return key


def check_speaker(settings: ModelSettings) -> None:
    """Raises InputError unless the model's server answers, or its folder and packages are there. None given is fine."""
    if settings.url is not None:
        from lcv_jax.data.curation.chat import Endpoint

        Endpoint(settings).reach()
    elif settings.path is not None:
        from lcv_jax.data.curation.local_vlm import check_folder

        check_folder(settings)


def open_speaker(settings: ModelSettings) -> Speaker | None:
    """The model, ready to be asked; None where none is given."""
    if settings.url is not None:
        from lcv_jax.data.curation.chat import Endpoint

        return Endpoint(settings)
    if settings.path is not None:
        from lcv_jax.data.curation.local_vlm import open_local

        return open_local(settings)
    return None


def _check_url(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port is not False
    except ValueError:
        parts, fits = None, False
    if parts is None or not fits:
        raise InputError("model, url: expected one such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(
            "model, url: has a user, a password or a query in it, where keys may be; expected it without, and "
            "key_variable with the name of an environment variable that holds the key"
        )
