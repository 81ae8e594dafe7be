"""The toy world: drawn clips of coloured shapes that move, captions of them, and a judge that reads them back.

`render` draws facts and writes captions; `judge` sees facts in pixels and `parse` reads them in captions; `score`
compares the two. `ToySource` is the world as a data source. `python -m lcv_jax.data.toy` writes clips to look at.
"""

from lcv_jax.data.toy.captions import LANGUAGES, parse, write_captions
from lcv_jax.data.toy.drawing import Rendered, render
from lcv_jax.data.toy.facts import COLOURS, MOTIONS, PATTERNS, SHAPES, TONES, Facts, Ground, Object, sample
from lcv_jax.data.toy.reading import Reading, Seen, judge
from lcv_jax.data.toy.scoring import colour_error, compare, score, score_batch
from lcv_jax.data.toy.sheet import Note, contact_sheet
from lcv_jax.data.toy.source import SPLITS, Form, ToySource, split_of

__all__ = [
    "COLOURS",
    "LANGUAGES",
    "MOTIONS",
    "PATTERNS",
    "SHAPES",
    "SPLITS",
    "TONES",
    "Facts",
    "Form",
    "Ground",
    "Note",
    "Object",
    "Reading",
    "Rendered",
    "Seen",
    "ToySource",
    "colour_error",
    "compare",
    "contact_sheet",
    "judge",
    "parse",
    "render",
    "sample",
    "score",
    "score_batch",
    "split_of",
    "write_captions",
]
