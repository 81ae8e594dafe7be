"""Prompts to token ids: cleaning and the published tokenizer. Any language."""

import dataclasses
import html
import logging
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ftfy
import numpy as np

from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)


def clean(prompt: str) -> str:
    """The prompt as the model reads it: encoding repaired, HTML unescaped, white space collapsed.

    ftfy repairs mojibake, straightens curly quotes and folds full-width forms and ligatures. HTML is
    unescaped twice, for text that was escaped twice. Every run of Unicode white space becomes one space,
    none at the ends.
    """
    repaired = ftfy.fix_text(prompt)
    return " ".join(html.unescape(html.unescape(repaired)).split())


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Tokenized prompts, padded to one length L.

    ids: (B, L) int32. mask: (B, L) bool, False at padding. lengths: (B,) int32, tokens of each prompt
    before it was cut, the end token included; more than L means that the prompt was cut.
    """

    ids: np.ndarray
    mask: np.ndarray
    lengths: np.ndarray


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """A transformers tokenizer and the ids that frame a prompt."""

    backend: Any
    pad_id: int
    eos_id: int

    @classmethod
    def open(cls, folder: os.PathLike[str] | str) -> "Tokenizer":
        """Reads a tokenizer folder of the published layout; never downloads, never runs code from the folder.

        Raises InputError if the folder is missing, unreadable, or its tokenizer has no padding or end token.
        """
        path = pathlib.Path(folder)
        if not path.is_dir():
            raise InputError(f"tokenizer {path}: no such folder; expected the checkpoint's tokenizer files")
        # Here and not above, because transformers takes seconds to import.
        import transformers

        try:
            backend = transformers.AutoTokenizer.from_pretrained(
                str(path), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # what it raises on broken files differs from version to version
            raise InputError(
                f"tokenizer {path}: cannot be read ({_first_line(error)}); copy the tokenizer folder again"
            ) from error
        if backend.pad_token_id is None or backend.eos_token_id is None:
            raise InputError(f"tokenizer {path}: has no padding or no end token; expected a T5 tokenizer")
        return cls(backend, backend.pad_token_id, backend.eos_token_id)

    @property
    def token_ids(self) -> int:
        """One more than the largest id that `encode` can give: the rows that an embedding needs."""
        return 1 + max(self.backend.get_vocab().values())

    def encode(self, prompts: Sequence[str], max_tokens: int = 512) -> TokenBatch:
        """Cleans and tokenizes; every prompt ends with the end token and is padded to `max_tokens`.

        A longer prompt is cut to its first `max_tokens` - 1 tokens and the end token, with a warning. An
        empty one is the end token alone. Raises InputError on anything but a list of at least one string.
        """
        if isinstance(prompts, str) or not prompts or not all(isinstance(p, str) for p in prompts):
            raise InputError(f"prompts {prompts!r}: expected a list of at least one string")
        if max_tokens < 1:
            raise InputError(f"{max_tokens=}: expected at least 1, the end token")
        ids = np.full((len(prompts), max_tokens), self.pad_id, np.int32)
        lengths = np.zeros(len(prompts), np.int32)
        for row, prompt in enumerate(clean(p) for p in prompts):
            tokens = self.backend(prompt, add_special_tokens=False, verbose=False)["input_ids"]
            lengths[row] = len(tokens) + 1
            if lengths[row] > max_tokens:
                logger.warning(
                    "prompt %r has %d tokens, only the first %d are used: shorten it",
                    prompt[:60] + "...",
                    lengths[row],
                    max_tokens,
                )
            kept = [*tokens[: max_tokens - 1], self.eos_id]
            ids[row, : len(kept)] = kept
        mask = np.arange(max_tokens) < np.minimum(lengths, max_tokens)[:, None]
        return TokenBatch(ids, mask, lengths)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
