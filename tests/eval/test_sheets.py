"""Sheets show prompts, frames and verdicts."""

import numpy as np

from lcv_jax.data import toy
from lcv_jax.eval.drift import Film
from lcv_jax.eval.judging import Verdict
from lcv_jax.eval.reconstruction import Reconstructed
from lcv_jax.eval.sheets import GREEN, RED, judged_sheet, long_sheet, reconstruction_sheet

CLIP = np.full((13, 64, 64, 3), 77, np.uint8)
RIGHT, WRONG = (Verdict({}, {"colour": True, "motion": right, "all": right}) for right in (True, False))

FACTS = [toy.Facts((toy.Object("red", "circle", "still"),))] * 2


def has(sheet: np.ndarray, colour: tuple[int, int, int]) -> bool:
    """Whether something is written in a colour, antialiased."""
    return bool((np.abs(sheet.astype(int) - colour).sum(axis=-1) < 40).any())


def test_verdicts_are_marked():
    right = judged_sheet([CLIP], ["A red circle."], [RIGHT], "en")
    assert (has(right, GREEN), has(right, RED)) == (True, False)
    wrong = judged_sheet([CLIP], ["A red circle."], [WRONG], "en")
    assert (has(wrong, GREEN), has(wrong, RED)) == (False, True)
    assert (right == 77).all(axis=-1).sum() == 7 * 64 * 64


def test_another_language_is_told():
    """In Latin letters: the same facts in English, and which language was asked in."""
    notes = [[toy.Note("[asked for in zh] A red circle."), toy.Note("right", GREEN)]]
    expected = toy.contact_sheet([CLIP], columns=2, frames=7, notes=notes)
    np.testing.assert_array_equal(judged_sheet([CLIP], ["A red circle."], [RIGHT], "zh"), expected)


def test_long_videos_show_every_segment():
    films = [Film("A red circle.", (1.0, 2.5), kept, CLIP[:2]) for kept in (True, False)]
    sheet = long_sheet(films, "en")
    assert (sheet == 77).all(axis=-1).sum() == 2 * 2 * 64 * 64
    assert has(sheet, GREEN)
    assert has(sheet, RED)


def test_what_was_decoded_stands_beside_what_was_drawn():
    sheet = reconstruction_sheet(Reconstructed(np.stack([CLIP] * 2), np.stack([CLIP + 5] * 2), FACTS))
    middle = sheet.shape[1] // 2
    for half, shown in ((sheet[:, :middle], 77), (sheet[:, middle:], 82)):
        assert (half == shown).all(axis=-1).sum() >= 2 * 7 * 64 * 64
