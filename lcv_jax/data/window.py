"""How a refined clip is padded (SPEC 6), alike in sampling and in what refinement is trained on.

Edge frames are repeated in front and behind, so that condition latents and the others are each multiples of what block
sparse attention needs; the padding is cut off again after decoding.
"""

import dataclasses
import math

from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Window:
    """How a refined clip is padded. frames: of the result. cond_frames: of them in the condition, at the front.
    front, back: repeated edge frames. cond_latents, latents: latent frames in the condition, and in all."""

    frames: int
    cond_frames: int
    front: int
    back: int
    cond_latents: int
    latents: int

    @property
    def places(self) -> range:
        """Frames of the padded clip by their place in the result, before 0 and from `frames` on repeated edges."""
        return range(-self.front, self.frames + self.back)

    @property
    def shown(self) -> list[int]:
        """Which frame of the result each frame of the padded clip shows. The condition's are the first front +
        cond_frames, and encode to its latents without those behind."""
        return [min(max(place, 0), self.frames - 1) for place in self.places]


def window(frames: int, cond_frames: int, multiple: int = 4) -> Window:
    """The padding of a clip of `frames`, of which the first cond_frames are given. multiple: of both latent counts.

    Without condition the official code pads to 4 m frames, of which its encoder reads 4 m - 3, and may return up to 3
    frames too few; here there are always enough.
    """
    if not 0 <= cond_frames < frames:
        raise InputError(
            f"num_cond_frames={cond_frames} of {frames} refined frames: expected fewer, so that something is refined"
        )
    if not cond_frames:
        latents = _up(math.ceil((frames + 3) / 4), multiple)
        return Window(frames, 0, 0, 4 * latents - 3 - frames, 0, latents)
    cond = _up(1 + math.ceil((cond_frames - 1) / 4), multiple)
    rest = _up(math.ceil((frames - cond_frames) / 4), multiple)
    front, back = 4 * cond - 3 - cond_frames, 4 * rest - (frames - cond_frames)
    return Window(frames, cond_frames, front, back, cond, cond + rest)


def _up(count: int, multiple: int) -> int:
    return math.ceil(count / multiple) * multiple
