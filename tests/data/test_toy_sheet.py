"""Notes on contact sheets: under their clip, in their colour, wrapped, and nothing else moved."""

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.data.toy.sheet import _LINE
from lcv_jax.errors import InputError

RED = (200, 0, 0)
CLIPS = [np.full((3, 40, 40, 3), 50 * i, np.uint8) for i in range(1, 4)]
FRAMES = {"columns": 1, "frames": 3, "gap": 2}


def test_notes_stand_under_their_clip():
    notes = [[toy.Note("one")], [toy.Note("two"), toy.Note("wrong", RED)], [toy.Note("three")]]
    plain, noted = toy.contact_sheet(CLIPS, **FRAMES), toy.contact_sheet(CLIPS, **FRAMES, notes=notes)
    assert noted.shape == (plain.shape[0] + 3 * 2 * _LINE, *plain.shape[1:])
    step = 42 + 2 * _LINE
    for i, clip in enumerate(CLIPS):
        assert (noted[2 + i * step : 42 + i * step, 2:42] == clip[0, 0, 0]).all()
        under = noted[42 + i * step : (i + 1) * step].astype(int)
        assert (under.min(axis=(0, 1)) < 100).all()
        reddish = (under[..., 0] - under[..., 1] > 100).any()
        assert reddish == (i == 1)


def test_long_notes_are_wrapped_to_the_clips_width():
    words = "a word and another word and so on until it is too long for one line of this narrow clip"
    long = toy.contact_sheet(CLIPS[:1], **FRAMES, notes=[[toy.Note(words)]])
    short = toy.contact_sheet(CLIPS[:1], **FRAMES, notes=[[toy.Note("a word")]])
    assert long.shape[1] == short.shape[1]
    lines = (long.shape[0] - short.shape[0]) / _LINE
    assert lines >= 2
    assert lines == int(lines)


def test_notes_of_other_clips_are_refused():
    with pytest.raises(InputError, match="notes of 2 clips for 3 clips: expected those of each, or none"):
        toy.contact_sheet(CLIPS, **FRAMES, notes=[[], []])
