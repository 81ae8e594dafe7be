"""What pairs of clips for refinement have in common: clips as they shall be, and as they are before it (SPEC 8)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lcv_jax.data.window import Window, window
from lcv_jax.errors import InputError

MODES = {"spatial": 1, "spatio-temporal": 2}
"""What is refined: the size, or the frame rate too; with the frames that are made of one."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What all pairs of a dataset have in common. mode: of MODES. cond_frames: at the front of the refined clips, given
    clean: 0, 1 (a picture), or the end of a clip before. multiple: of counts of condition latents and of others, as
    block sparse attention wants them. seed: of degradations; a clip's are drawn from that and its key.
    """

    mode: str
    cond_frames: int = 0
    multiple: int = 4
    seed: int = 0

    def __post_init__(self):
        if self.mode not in MODES:
            raise InputError(f"pairs, mode={self.mode!r}: expected {' or '.join(MODES)}")
        for name, least in (("cond_frames", 0), ("multiple", 1), ("seed", 0)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise InputError(f"pairs, {name}={getattr(self, name)!r}: expected a whole number from {least}")

    @classmethod
    def from_json(cls, given: Any, where: str) -> "Pairs":
        """The inverse of `dataclasses.asdict`. Raises InputError."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(given, Mapping) or set(given) != names:
            raise InputError(f"{where}: expected {', '.join(sorted(names))}; write the cache again")
        return cls(**given)

    @property
    def times(self) -> int:
        """Refined frames for one."""
        return MODES[self.mode]

    @property
    def task(self) -> str:
        return {0: "t2v", 1: "i2v"}.get(self.cond_frames, "vc")

    @property
    def cond_latents(self) -> int:
        return window(self.cond_frames + 1, self.cond_frames, self.multiple).cond_latents

    def window(self, frames: int) -> Window:
        """How refined clips of so many frames are padded."""
        return window(frames, self.cond_frames, self.multiple)
