"""Models of a folder, run by transformers in the worker's own process: Qwen2.5-VL, LLaVA-OneVision and their like,
which see, and language models, which only write.

Frames are given as pictures in a row. Answers with fields are held to their form token by token, so that they always
fit. Needs torch, which is imported where it is used.
"""

import functools
import itertools
import json
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import PIL.Image

from lcv_jax.data.curation.speakers import Fields, ModelFailed, ModelSettings, Question
from lcv_jax.errors import InputError

_MOST_ANSWERS = 100_000


def check_folder(settings: ModelSettings) -> None:
    """Raises InputError unless torch is installed, finds the device, and the folder has a model that can be read."""
    _libraries(settings)
    _config(settings)


def open_local(settings: ModelSettings) -> "LocalModel":
    """The model in memory: bfloat16 on a GPU, as it was saved on a CPU. Pickled weights are refused."""
    torch, transformers = _libraries(settings)
    config = _config(settings)
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

    sees = config.model_type in SEEING
    kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    how = {"local_files_only": True, "use_safetensors": True, "dtype": torch.bfloat16}
    if settings.device == "cpu":
        how["dtype"] = "auto"
    try:
        processor = _processor(settings.path, config) if sees else _tokenizer(settings.path)
        model = kind.from_pretrained(settings.path, **how)
    except Exception as error:  # what it raises on missing and broken files differs from version to version
        raise InputError(f"model {settings.path}: cannot be read ({_line(error)}); download it again") from error
    return LocalModel(settings, model.to(settings.device).eval(), processor, sees)


class LocalModel:
    """A speaker. Its answers are its likeliest ones, the same every time."""

    def __init__(self, settings: ModelSettings, model: Any, processor: Any, sees: bool):
        self.name = settings.said_name
        self._settings, self._model, self._processor, self._sees = settings, model, processor, sees
        self._tokenizer = processor.tokenizer if sees else processor
        self._forms = functools.lru_cache(maxsize=4)(self._form)

    def __call__(self, question: Question) -> str:
        import torch

        inputs = self._inputs(question).to(self._model.device)
        length = inputs["input_ids"].shape[1]
        how: dict[str, Any] = {"max_new_tokens": self._settings.most_tokens}
        if question.fields is not None:
            form = self._forms(tuple((name, tuple(values)) for name, values in question.fields.items()))
            how = {"max_new_tokens": form.longest, "prefix_allowed_tokens_fn": form.after(length)}
        with torch.inference_mode():
            made = self._model.generate(**inputs, do_sample=False, num_beams=1, **how)[0, length:]
        ended = int(made[-1]) in self._ends()
        if question.fields is None and not ended and len(made) >= self._settings.most_tokens:
            raise ModelFailed(
                f"model {self.name}: its answer is longer than {self._settings.most_tokens} tokens; raise most_tokens"
            )
        text = self._tokenizer.decode(made, skip_special_tokens=True)
        if not text.strip():
            raise ModelFailed(f"model {self.name}: answered without a text")
        return text

    def _inputs(self, question: Question) -> Any:
        if question.frames and not self._sees:
            raise InputError(f"model {self.name}: sees no pictures; name one that does for --caption.video")
        how = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        if not self._sees:
            turns: list[dict[str, Any]] = [{"role": "user", "content": question.text}]
            return self._processor.apply_chat_template(turns, **how)
        pictures = [{"type": "image", "image": PIL.Image.fromarray(frame)} for frame in question.frames]
        turns = [{"role": "user", "content": [*pictures, {"type": "text", "text": question.text}]}]
        inputs = self._processor.apply_chat_template(turns, **how)
        return inputs.to(self._model.dtype)  # pictures; whole numbers stay such

    def _ends(self) -> Sequence[int]:
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list | tuple) else [ends]
        return [end for end in (*ends, self._tokenizer.eos_token_id) if end is not None]

    def _form(self, fields: Sequence[tuple[str, tuple[str, ...]]]) -> "_Form":
        texts = answers(dict(fields))
        ids = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        return _Form(ids, self._ends()[0])


class _Form:
    """A tree of the tokens of all answers that may be given."""

    def __init__(self, answers: Iterable[Sequence[int]], end: int):
        self.longest, self._end = 0, end
        self._tree: dict[int, Any] = {}
        for answer in answers:
            self.longest = max(self.longest, len(answer) + 1)
            node = self._tree
            for token in answer:
                node = node.setdefault(token, {})
            node[end] = {}

    def after(self, length: int) -> Any:
        """For generate: which tokens may follow those behind the first `length`."""

        def allowed(_: int, ids: Any) -> list[int]:
            node = self._tree
            for token in ids[length:].tolist():
                node = node.get(token, {})
            return list(node) or [self._end]

        return allowed


def answers(fields: Fields) -> list[str]:
    """All answers with these fields, as JSON."""
    count = 1
    for values in fields.values():
        count *= len(values)
    if count > _MOST_ANSWERS:
        raise ValueError(f"fields: {count} different answers, expected at most {_MOST_ANSWERS}")
    return [json.dumps(dict(zip(fields, values, strict=True))) for values in itertools.product(*fields.values())]


def _processor(folder: str, config: Any) -> Any:
    """What makes a model's inputs. The processors of models that also know videos want torchvision for those; frames
    are given as pictures here, so without torchvision the part for videos is left out."""
    import transformers
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    if transformers.utils.is_torchvision_available():
        return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    kind = getattr(transformers, PROCESSOR_MAPPING_NAMES[config.model_type])

    def check(self: Any, name: str, argument: Any) -> Any:
        return None if argument is None else kind.check_argument_for_proper_class(self, name, argument)

    pictures = type(kind.__name__, (kind,), {"check_argument_for_proper_class": check})
    parts = {
        "tokenizer": _tokenizer(folder),
        "image_processor": transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True),
    }
    told, _ = kind.get_processor_dict(folder, local_files_only=True)
    told.setdefault("chat_template", parts["tokenizer"].chat_template)
    return pictures.from_args_and_dict([parts.get(name) for name in pictures.get_attributes()], told)


def _tokenizer(folder: str) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)


def _config(settings: ModelSettings) -> Any:
    import transformers

    if not (pathlib.Path(settings.path) / "config.json").is_file():
        raise InputError(f"model {settings.path}: has no config.json; expected the folder of a model for transformers")
    try:
        return transformers.AutoConfig.from_pretrained(settings.path, local_files_only=True)
    except Exception as error:  # as above
        raise InputError(f"model {settings.path}: its config.json cannot be read ({_line(error)})") from error


def _libraries(settings: ModelSettings) -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"models of a folder need torch ({error}); install it: pip install 'lcv_jax[rewards]'"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # of weights that are read; the stage has its own
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InputError("model, device cuda: torch finds none here; choose cpu, or a server on a machine that has one")
    return torch, transformers


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
