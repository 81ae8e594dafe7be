"""How a clip is filmed, in words of a fixed list: what may be said, and reading answers strictly.

The values are those of the fields of `records.CAPTIONS`. "unclear" may be answered and becomes null.
"""

import json
import re
from collections.abc import Mapping

from lcv_jax.data.curation.speakers import Fields

VALUES: Mapping[str, tuple[str, ...]] = {
    "shot_size": (
        "extreme_close_up",
        "close_up",
        "medium_close_up",
        "medium_shot",
        "cowboy_shot",
        "full_shot",
        "long_shot",
        "extreme_long_shot",
    ),
    "lens": ("fisheye", "wide_angle", "standard", "telephoto", "macro"),
    "style": (
        "live_action",
        "cinematic",
        "documentary",
        "animation_2d",
        "animation_3d",
        "stop_motion",
        "painting",
        "video_game",
        "screen_recording",
    ),
    "colour_tone": (
        "warm",
        "cool",
        "neutral",
        "vivid",
        "muted",
        "pastel",
        "dark",
        "bright",
        "black_and_white",
        "sepia",
    ),
}
"""What a clip's fields may hold besides null. The one list: requests, checks and compositions read it."""
UNCLEAR = "unclear"
FIELDS: Fields = {name: (*values, UNCLEAR) for name, values in VALUES.items()}
"""What may be answered."""
_FENCE = re.compile(r"```(?:json)?\s*(.*?)\s*```", re.DOTALL)


def read_answer(text: str, fields: Fields = FIELDS) -> dict[str, str] | None:
    """The values of an answer by name; None unless it is one JSON object of just these names with values of the list.

    A Markdown fence around the whole is taken off, as models put it there that are not held to a schema.
    """
    text = text.strip()
    if fenced := _FENCE.fullmatch(text):
        text = fenced[1]
    try:
        # Objects become tuples of pairs, so that a name that stands twice is seen.
        found = json.loads(text, object_pairs_hook=tuple)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, tuple) or sorted(name for name, _ in found) != sorted(fields):
        return None
    fits = all(isinstance(value, str) and value in fields[name] for name, value in found)
    return dict(found) if fits else None


def settled(answer: Mapping[str, str] | None) -> dict[str, str | None]:
    """The fields of a row: null for what is unclear, and all null without an answer."""
    found = answer or {}
    return {name: value if (value := found.get(name)) != UNCLEAR else None for name in VALUES}
