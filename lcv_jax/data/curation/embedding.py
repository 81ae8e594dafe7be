"""Stage 6: captions as vectors, for balancing: clips whose captions say the same lie close to each other."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from lcv_jax.data.curation import records
from lcv_jax.data.curation.fingerprints import fingerprint
from lcv_jax.data.curation.library import Library, rows_of
from lcv_jax.data.curation.speakers import Device
from lcv_jax.data.curation.stage import Row, Task, Worker
from lcv_jax.errors import InputError

logger = logging.getLogger(__name__)

Encoder = Callable[[str], np.ndarray]
PREFERRED = ("basic", "told", "translated", "summary")
"""Of English captions the first that there is stands for its clip."""
WORDS = "words-512-1"
"""The embedding without weights: its width and version."""
_WIDTH = 512
_LONGEST = 512  # tokens, where the model says nothing


@dataclasses.dataclass(frozen=True)
class Embedding:
    """path: of a sentence encoder, a folder for transformers or an .onnx file with tokenizer.json beside it; without
    one captions are compared by their words alone. device: of a folder's model."""

    name: ClassVar[str] = "embed"
    version: ClassVar[int] = 1
    schema: ClassVar[pa.Schema] = records.EMBEDDINGS
    after: ClassVar[tuple[str, ...]] = ("caption",)

    path: str | None = None
    device: Device = "cpu"

    def decides(self) -> Mapping[str, Any]:
        return {"encoder": self.encoder_name()}

    def encoder_name(self) -> str:
        """As rows have it: of a model, its folder's or file's name and fingerprint."""
        if self.path is None:
            return WORDS
        return f"{pathlib.Path(self.path).expanduser().resolve().name}-{fingerprint(self.path)}"

    def check(self) -> None:
        """Opens the encoder once, which tells all that is wrong with it."""
        if self.path is None:
            logger.warning(
                "embed: no sentence encoder is given (--embed.path): captions are compared by the words they share, "
                "not by what they mean, and so are the clusters made of them"
            )
        self._encoder()

    def tasks(self, library: Library) -> Iterable[Task]:
        """Clips with an English caption."""
        for row in rows_of(library.table("caption").rows(["clip_id", "captions"])):
            text = english(row["captions"])
            if text is not None:
                yield Task(row["clip_id"], {"clip_id": row["clip_id"], "text": text}, len(text))

    def open(self, library: Library) -> Worker:
        encoder, name = self._encoder(), self.encoder_name()

        def embed(given: Row) -> Sequence[Row]:
            vector = encoder(given["text"])
            length = float(np.linalg.norm(vector))
            if not 0 < length < np.inf:
                raise InputError(f"caption {given['text'][:60]!r}: has no words to compare, expected a sentence")
            row = {"embedding": (vector / length).astype(np.float32).tolist(), "embedding_model": name}
            return [{"clip_id": given["clip_id"], **row}]

        return embed

    def _encoder(self) -> Encoder:
        if self.path is None:
            return _words()
        if pathlib.Path(self.path).suffix == ".onnx":
            return _onnx(pathlib.Path(self.path).expanduser())
        return _transformer(pathlib.Path(self.path).expanduser(), self.device)


def english(captions: Sequence[Mapping[str, Any]]) -> str | None:
    """The caption that stands for a clip: the first of the preferred kinds, in English; None where there is none."""
    found = {caption["kind"]: caption["text"] for caption in captions if caption["language"] == "en"}
    return next((found[kind] for kind in PREFERRED if kind in found), None)


def _words() -> Encoder:
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
    except ImportError as error:
        raise InputError(f"embed needs scikit-learn ({error}); install it: pip install 'lcv_jax[curate]'") from error
    # Without common words, which all captions share; of a caption of nothing else there is no vector.
    hashing = HashingVectorizer(n_features=_WIDTH, ngram_range=(1, 2), stop_words="english", dtype=np.float32)
    return lambda text: hashing.transform([text]).toarray()[0]


def _transformer(folder: pathlib.Path, device: Device) -> Encoder:
    """The mean of the last layer's states of all tokens."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"--embed.path {folder}: needs torch ({error}); install it: pip install 'lcv_jax[rewards]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # of weights that are read; the stage has its own
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--embed.device cuda: torch finds none here; choose cpu")
    try:
        how = {"local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **how)
        model = transformers.AutoModel.from_pretrained(str(folder), use_safetensors=True, **how).to(device).eval()
    except Exception as error:  # what it raises on missing and broken files differs from version to version
        raise InputError(f"--embed.path {folder}: cannot be read ({_line(error)})") from error
    positions = getattr(model.config, "max_position_embeddings", _LONGEST)
    longest = min(tokenizer.model_max_length, positions, _LONGEST)

    def encode(text: str) -> np.ndarray:
        inputs = tokenizer([text], truncation=True, max_length=longest, return_tensors="pt").to(device)
        with torch.inference_mode():
            states = model(**inputs).last_hidden_state
        return states[0].float().mean(0).cpu().numpy()  # one text, so nothing is padding

    return encode


def _onnx(path: pathlib.Path) -> Encoder:
    """As of a folder, by onnxruntime; a model whose first output is one vector has taken the mean itself."""
    try:
        import onnxruntime
        import tokenizers
    except ImportError as error:
        raise InputError(
            f"--embed.path {path}: needs onnxruntime ({error}); install it: pip install 'lcv_jax[curate]'"
        ) from error
    beside = path.with_name("tokenizer.json")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(beside))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # as many workers as cores
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # both libraries raise kinds of their own
        raise InputError(
            f"--embed.path {path}: it or {beside.name} beside it cannot be read ({_line(error)})"
        ) from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST)
    names = {wanted.name for wanted in session.get_inputs()}

    def encode(text: str) -> np.ndarray:
        found = tokenizer.encode(text)
        every = {
            "input_ids": found.ids,
            "attention_mask": found.attention_mask,
            "token_type_ids": found.type_ids,
        }
        given = {name: np.array([values], np.int64) for name, values in every.items() if name in names}
        states = np.asarray(session.run(None, given)[0], np.float32)
        return states[0].mean(0) if states.ndim == 3 else states[0]

    return encode


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
