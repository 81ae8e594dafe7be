"""What travels between a reward server and those who ask it.

    GET  /rewards   -> {"rewards": {NAME: {"rate", "multiple", "least", "most"}}, "most_bytes": N}
    POST /check     {"reward": NAME, "prompts": [...]} -> {}
    POST /score     a request as below -> {"scores": [...]}, null where a video has none

A request is the 4 bytes "LCVR", the length of its head in 4 bytes (unsigned, least first), the head in JSON, {"reward":
NAME, "prompts": [...], "shapes": [[F, H, W], ...], "patience_s": seconds}, and the videos one behind the other, uint8
RGB in the order (F, H, W, 3). Answers other than 200 hold {"error": one line}: 4xx for what is wrong with the request,
5xx for what another try may mend.
"""

import dataclasses
import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from lcv_jax.published import is_number

TYPE = "application/x-lcv-reward"
_MAGIC = b"LCVR"
_START = struct.Struct("<4sI")
_LONGEST_HEAD = 1 << 24  # bytes; prompts are short


@dataclasses.dataclass(frozen=True)
class Request:
    """videos: N of (F, H, W, 3) uint8. prompts: N. patience_s: after which nobody waits for the answer any more."""

    reward: str
    videos: Sequence[np.ndarray]
    prompts: Sequence[str]
    patience_s: float


def encode(request: Request) -> list[memoryview]:
    """The parts of a body, to be sent one behind the other; videos are not copied where they lie in one piece."""
    head = {
        "reward": request.reward,
        "prompts": list(request.prompts),
        "shapes": [list(video.shape[:3]) for video in request.videos],
        "patience_s": request.patience_s,
    }
    text = json.dumps(head).encode()
    start = _START.pack(_MAGIC, len(text)) + text
    return [memoryview(start), *(np.ascontiguousarray(video).reshape(-1).data for video in request.videos)]


def decode(body: bytes | bytearray) -> Request:
    """The request of a body; its videos are views. Raises ValueError with one line on what is no such body."""
    if len(body) < _START.size:
        raise ValueError(f"{len(body)} bytes, expected a request of at least {_START.size}")
    magic, length = _START.unpack_from(body)
    if magic != _MAGIC or length > min(_LONGEST_HEAD, len(body) - _START.size):
        raise ValueError("does not begin as a request does")
    start = _START.size + length
    head = json_object(bytes(body[_START.size : start]), ("reward", "prompts", "shapes", "patience_s"))
    prompts, shapes = head["prompts"], head["shapes"]
    check_names(head)
    if not is_number(head["patience_s"], float) or head["patience_s"] <= 0:
        raise ValueError("patience_s: expected seconds above 0")
    if not isinstance(shapes, list) or len(shapes) != len(prompts) or not all(map(_is_shape, shapes)):
        raise ValueError("shapes: expected [frames, height, width] for each prompt, all above 0")
    sizes = [3 * math.prod(shape) for shape in shapes]
    if sum(sizes) != len(body) - start:
        raise ValueError(f"{len(body) - start} bytes of videos, expected {sum(sizes)} by their shapes")
    videos = []
    for shape, size in zip(shapes, sizes, strict=True):
        videos.append(np.frombuffer(body, np.uint8, size, start).reshape(*shape, 3))
        start += size
    return Request(head["reward"], videos, prompts, head["patience_s"])


def json_object(text: bytes, keys: Sequence[str]) -> dict[str, Any]:
    """A JSON object with exactly these keys. Raises ValueError on anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("expected JSON") from None
    if not isinstance(value, dict) or set(value) != set(keys):
        raise ValueError(f"expected a JSON object with {', '.join(keys)}")
    return value


def check_names(head: dict[str, Any]) -> None:
    """Raises ValueError unless "reward" is a string, and "prompts" a list of some."""
    prompts = head["prompts"]
    if not isinstance(head["reward"], str) or not isinstance(prompts, list):
        raise ValueError("reward, prompts: expected a name and a list")
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError("prompts: expected strings, at least one")


def scores_to_json(scores: np.ndarray) -> list[float | None]:
    """(N,) floats as JSON has them; null for what is no finite number."""
    return [float(score) if np.isfinite(score) else None for score in scores]


def scores_from_json(values: Any, count: int) -> np.ndarray:
    """(count,) float32. Raises ValueError on anything else."""
    if (
        not isinstance(values, list)
        or len(values) != count
        or not all(v is None or is_number(v, float) for v in values)
    ):
        raise ValueError(f"expected {count} scores")
    return np.array([np.nan if value is None else value for value in values], np.float32)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and len(shape) == 3 and all(is_number(n) and n > 0 for n in shape)
