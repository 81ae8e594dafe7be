"""Contact sheets: a row for each clip, with frames from its first to its last."""

from collections.abc import Sequence

import numpy as np

from lcv_jax.errors import InputError

_WHITE = 255


def contact_sheet(clips: Sequence[np.ndarray], columns: int = 1, frames: int = 5, gap: int = 4) -> np.ndarray:
    """Puts clips, each (F, H, W, 3) uint8 and all of one (H, W), on one picture (height, width, 3).

    columns: of clips. frames: how many of each are shown side by side, evenly spaced; a shorter clip shows all it has.
    gap: white pixels around each frame, thrice as many between columns. Raises InputError on no clips, other shapes,
    and numbers below 1.
    """
    shapes = sorted({np.shape(clip)[1:] for clip in clips})
    if len(shapes) != 1 or len(shapes[0]) != 3 or any(clip.dtype != np.uint8 for clip in clips):
        raise InputError(f"clips: frames of shapes {shapes}, expected one shape, (height, width, 3) uint8")
    if columns < 1 or frames < 1:
        raise InputError(f"{columns=}, {frames=}: expected at least 1 of each")
    height, width, _ = shapes[0]
    shown = min(frames, max(len(clip) for clip in clips))
    rows = -(-len(clips) // columns)
    step_y, step_x = height + gap, width + gap
    column_width = shown * step_x + 2 * gap
    sheet = np.full((rows * step_y + gap, columns * column_width - gap, 3), _WHITE, np.uint8)
    for i, clip in enumerate(clips):
        column, row = divmod(i, rows)
        chosen = np.unique(np.round(np.linspace(0, len(clip) - 1, shown)).astype(int))
        for j, frame in enumerate(clip[chosen]):
            y, x = gap + row * step_y, gap + column * column_width + j * step_x
            sheet[y : y + height, x : x + width] = frame
    return sheet
