"""Contact sheets: a row for each clip, with frames from its first to its last, and notes under it."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from lcv_jax.errors import InputError

BLACK = (0, 0, 0)
_WHITE = 255
_TEXT = 11  # pixels
_LINE = 14


@dataclasses.dataclass(frozen=True)
class Note:
    """A text under a clip, wrapped to its width. colour: RGB. Pillow's own font has Latin letters only."""

    text: str
    colour: tuple[int, int, int] = BLACK


def contact_sheet(
    clips: Sequence[np.ndarray],
    columns: int = 1,
    frames: int = 5,
    gap: int = 4,
    notes: Sequence[Sequence[Note]] = (),
) -> np.ndarray:
    """Puts clips, each (F, H, W, 3) uint8 and all of one (H, W), on one picture (height, width, 3).

    columns: of clips. frames: how many of each are shown side by side, evenly spaced; a shorter clip shows all it has.
    gap: white pixels around each frame, thrice as many between columns. notes: of each clip, or none at all. Raises
    InputError on no clips, other shapes, numbers below 1, and notes of more or fewer clips.
    """
    shapes = sorted({np.shape(clip)[1:] for clip in clips})
    if len(shapes) != 1 or len(shapes[0]) != 3 or any(clip.dtype != np.uint8 for clip in clips):
        raise InputError(f"clips: frames of shapes {shapes}, expected one shape, (height, width, 3) uint8")
    if columns < 1 or frames < 1:
        raise InputError(f"{columns=}, {frames=}: expected at least 1 of each")
    if len(notes) not in (0, len(clips)):
        raise InputError(f"notes of {len(notes)} clips for {len(clips)} clips: expected those of each, or none")
    height, width, _ = shapes[0]
    shown = min(frames, max(len(clip) for clip in clips))
    rows = -(-len(clips) // columns)
    step_x = width + gap
    lines = [_lines(each, shown * step_x - gap) for each in notes] or [[]] * len(clips)
    step_y = height + gap + _LINE * max(map(len, lines))
    column_width = shown * step_x + 2 * gap
    sheet = np.full((rows * step_y + gap, columns * column_width - gap, 3), _WHITE, np.uint8)
    places = []
    for i, clip in enumerate(clips):
        column, row = divmod(i, rows)
        chosen = np.unique(np.round(np.linspace(0, len(clip) - 1, shown)).astype(int))
        y, left = gap + row * step_y, gap + column * column_width
        for j, frame in enumerate(clip[chosen]):
            sheet[y : y + height, left + j * step_x : left + j * step_x + width] = frame
        places.append((left, y + height + 1))
    return _written(sheet, lines, places) if notes else sheet


def _lines(notes: Sequence[Note], width: int) -> list[Note]:
    """The notes in lines of at most `width` pixels, unless a word is longer."""
    font, lines = _font(), []
    for note in notes:
        line = ""
        for word in note.text.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(dataclasses.replace(note, text=line))
                longer = word
            line = longer
        lines.append(dataclasses.replace(note, text=line))
    return lines


def _written(sheet: np.ndarray, lines: Sequence[Sequence[Note]], places: Sequence[tuple[int, int]]) -> np.ndarray:
    """The sheet with each clip's lines from its place (x, y) downwards."""
    picture = PIL.Image.fromarray(sheet)
    draw = PIL.ImageDraw.Draw(picture)
    for each, (x, y) in zip(lines, places, strict=True):
        for i, line in enumerate(each):
            draw.text((x, y + i * _LINE), line.text, fill=line.colour, font=_font())
    return np.asarray(picture)


def _font() -> PIL.ImageFont.ImageFont | PIL.ImageFont.FreeTypeFont:
    return PIL.ImageFont.load_default(_TEXT)
