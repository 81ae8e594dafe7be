"""Contact sheets of what was measured: prompts, frames, and the judge's verdict."""

from collections.abc import Sequence

import numpy as np

from lcv_jax.data.toy import Note, contact_sheet
from lcv_jax.eval.drift import Film
from lcv_jax.eval.judging import Verdict
from lcv_jax.eval.reconstruction import Reconstructed
from lcv_jax.eval.refining import Refined

CLIPS = 24
"""On a sheet: the first ones."""
FRAMES = 7
REFINED_FRAMES = 3
GREEN, RED = (20, 120, 60), (200, 30, 30)


def judged_sheet(
    clips: Sequence[np.ndarray], prompts: Sequence[str], verdicts: Sequence[Verdict], language: str
) -> np.ndarray:
    """prompts: in English; what was asked for in another language is told so, as Pillow's font has Latin letters only.
    Returns (height, width, 3) uint8."""
    notes = [[_prompt(prompt, language), _judged(each)] for prompt, each in zip(prompts, verdicts, strict=True)]
    return contact_sheet(clips, columns=2, frames=FRAMES, notes=notes)


def long_sheet(films: Sequence[Film], language: str) -> np.ndarray:
    """The last frame of every segment, with the errors of colour of the first and the last."""
    notes = []
    for film in films:
        first, last = film.errors[0], film.errors[-1]
        text = f"{'kept' if film.kept else 'lost'}; error of colour {first:.1f} to {last:.1f} levels"
        notes.append([_prompt(film.caption, language), Note(text, GREEN if film.kept else RED)])
    return contact_sheet([film.shown for film in films], frames=len(films[0].shown), notes=notes)


def reconstruction_sheet(found: Reconstructed) -> np.ndarray:
    """Clips as drawn, and as decoded beside them."""
    shown = range(min(len(found.drawn), CLIPS // 2))
    notes = [[Note("drawn")] for _ in shown] + [[Note(f"decoded, {found.psnr(i):.1f} dB")] for i in shown]
    clips = [*found.drawn[: len(shown)], *found.decoded[: len(shown)]]
    return contact_sheet(clips, columns=2, frames=FRAMES, notes=notes)


def refined_sheet(found: Sequence[Refined]) -> np.ndarray:
    """The true clips, and beside them what each way made of them, with the judge's verdict."""
    shown = range(min(len(found[0].true), CLIPS // 3))
    clips, notes = [found[0].true[i] for i in shown], [[Note("true")] for _ in shown]
    for each in found:
        clips += [each.clips[i] for i in shown]
        notes += [[Note(each.way.name), _judged(each.verdicts[i])] for i in shown]
    return contact_sheet(clips, columns=1 + len(found), frames=REFINED_FRAMES, notes=notes)


def _prompt(prompt: str, language: str) -> Note:
    return Note(prompt if language == "en" else f"[asked for in {language}] {prompt}")


def _judged(each: Verdict) -> Note:
    return Note("right", GREEN) if not each.wrong else Note(f"wrong: {', '.join(each.wrong)}", RED)
