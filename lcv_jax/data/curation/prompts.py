"""What models are asked about clips. A change of any word raises VERSION, and has captions made anew."""

from lcv_jax.data.curation.speakers import Fields

VERSION = 1
_NAMES = {"en": "English", "zh": "simplified Chinese"}
_MEANINGS = {
    "shot_size": "how much of the main subject the frame holds",
    "lens": "the lens that the perspective and depth of field look like",
    "style": "what kind of picture it is",
    "colour_tone": "the impression of all colours together",
}

DESCRIBE = (
    "These are frames of one video clip, in the order of time. Describe the clip in English, in one paragraph of three "
    "to six sentences: who or what is seen and how they look, what happens from the first to the last frame, and the "
    "place behind them. Say what can be seen and nothing else: no guesses, no feelings, no words such as video, clip "
    "or frame. Leave out how the camera moves, the framing, the lens and the style. Answer with the description alone."
)
AGAIN = "\n\nThe last answer to this was not of the form that is asked for. Keep to the form exactly, and add nothing."


def cinematography(fields: Fields) -> str:
    """Asks for one value of each field."""
    lines = "\n".join(f'"{name}" ({_MEANINGS[name]}): {", ".join(values)}' for name, values in fields.items())
    return (
        "These are frames of one video clip, in the order of time. Classify how it is filmed. Answer with one JSON "
        f"object that has these names, each with one of its values, or the value unclear where none fits:\n{lines}"
    )


def translate(text: str, language: str) -> str:
    """Asks for a caption in the other language."""
    return (
        f"Translate this description of a video into {_NAMES[language]}. Keep its meaning, leave nothing out, add "
        f"nothing. Answer with the translation alone.\n\n{text}"
    )


def summarise(text: str, language: str) -> str:
    """Asks for a caption in one sentence, in its own language."""
    long = {"en": "at most 30 words", "zh": "at most 50 characters"}[language]
    return (
        f"Shorten this description of a video to one sentence in {_NAMES[language]}, {long}: the main subject, what it "
        f"does and where. Add nothing. Answer with the sentence alone.\n\n{text}"
    )
