"""Models behind servers that speak OpenAI's chat protocol: vLLM, SGLang, llama.cpp, and those of companies."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import PIL.Image

from lcv_jax.data.curation.speakers import Fields, ModelFailed, ModelSettings, Question
from lcv_jax.errors import InputError

_QUALITY = 90  # of JPEG
_MEETING = 10.0  # seconds to reach a server at the start of a run
_LONGEST = 300  # letters of a server's message
_REFUSED = ("content_filter", "content_policy_violation", "data_inspection_failed", "ResponsibleAIPolicyViolation")
"""Codes of errors by which servers refuse a question."""


class Endpoint:
    """A server's model. The client library retries, waiting longer each time, or as long as the server says."""

    def __init__(self, settings: ModelSettings):
        try:
            import openai
        except ImportError as error:
            raise InputError(
                f"models of servers need openai ({error}); install it: pip install 'lcv_jax[curate]'"
            ) from error
        self.name = settings.said_name
        self._settings, self._errors, self._key = settings, openai, settings.key()
        # Without a key one is sent that is none, so that OPENAI_API_KEY goes to no server that does not ask for it.
        self._client = openai.OpenAI(
            base_url=settings.url,
            api_key=self._key or "none",
            timeout=settings.timeout_s,
            max_retries=settings.retries,
        )

    def reach(self) -> None:
        """Raises InputError unless the server answers and takes the key. Not all of them list their models."""
        try:
            self._client.with_options(timeout=min(self._settings.timeout_s, _MEETING), max_retries=1).models.list()
        except self._errors.APIStatusError as error:
            if error.status_code in (401, 403):
                raise InputError(f"{self._said(error)}; check key_variable") from None
        except self._errors.APIError as error:
            raise InputError(f"{self._said(error)}; start the server, or correct the url") from None

    def __call__(self, question: Question) -> str:
        asked: dict[str, Any] = {
            "model": self._settings.name,
            "messages": [{"role": "user", "content": _content(question)}],
            "max_tokens": self._settings.most_tokens,
        }
        if self._settings.temperature is not None:
            asked["temperature"] = self._settings.temperature
        if question.fields is not None:
            form = {"name": "answer", "strict": True, "schema": json_schema(question.fields)}
            asked["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            answer = self._client.chat.completions.create(**asked)
        except self._errors.APIError as error:
            if getattr(error, "code", None) in _REFUSED:
                raise InputError(f"{self._said(error)}: the question is refused") from None
            # Not from the error, which holds the request with its key.
            raise ModelFailed(self._said(error)) from None
        except ValueError as error:  # an answer that says it is JSON and is not
            raise ModelFailed(self._clean(f"answered what is no JSON ({error})")) from None
        return self._text(answer)

    def _text(self, answer: Any) -> str:
        choices = getattr(answer, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        refusal, text = getattr(message, "refusal", None), getattr(message, "content", None)
        ending = getattr(choice, "finish_reason", None)
        if refusal or ending == "content_filter":
            raise InputError(self._clean(f"refused to answer ({refusal or 'content filter'})"))
        if ending == "length":
            raise ModelFailed(
                self._clean(f"its answer is longer than {self._settings.most_tokens} tokens; raise most_tokens")
            )
        if not isinstance(text, str) or not text.strip():
            raise ModelFailed(self._clean("answered without a text"))
        return text

    def _said(self, error: Exception) -> str:
        cause = error.__cause__ if isinstance(error, self._errors.APIConnectionError) else None
        return self._clean(f"{error} {cause or ''}")

    def _clean(self, message: str) -> str:
        """One line that says who, without the key, which servers may repeat."""
        if self._key:
            message = message.replace(self._key, "***")
        return f"model {self.name} at {self._settings.url}: {' '.join(message.split())[:_LONGEST]}"


def json_schema(fields: Fields) -> Mapping[str, Any]:
    """Of an object of these names and values and nothing else."""
    return {
        "type": "object",
        "properties": {name: {"type": "string", "enum": list(values)} for name, values in fields.items()},
        "required": list(fields),
        "additionalProperties": False,
    }


def _content(question: Question) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": _data_url(frame)}} for frame in question.frames]
    return [*pictures, {"type": "text", "text": question.text}]


def _data_url(frame: np.ndarray) -> str:
    written = io.BytesIO()
    PIL.Image.fromarray(frame).save(written, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
