"""Which noise levels the sampler visits (SPEC 6)."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lcv_jax import published
from lcv_jax.errors import InputError

Array = np.ndarray | jax.Array
TRAIN_TIMESTEPS = 1000
DISTILLED_GRID = 50
# The tail of enhance_hf: timesteps above 500 are kept, then ten uniform ones.
_TAIL = np.linspace(500, 50, 10, dtype=np.float32)


class Kind(enum.StrEnum):
    """base: linear from 1 to 0.001, shifted. distilled: picked from a grid of 50, shifted. enhance_hf: base above
    0.5, then ten uniform levels (video continuation). refine: t_thresh, then base below it."""

    BASE = "base"
    DISTILLED = "distilled"
    ENHANCE_HF = "enhance_hf"
    REFINE = "refine"


# What the published file must say where it says it, because it is the method.
_FIXED = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": TRAIN_TIMESTEPS,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "invert_sigmas": False,
    "stochastic_sampling": False,
    "use_beta_sigmas": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}
# Read only by dynamic shifting, which is off.
_IGNORED = ("base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type")


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """scheduler_config.json: only the shift is free, all else is fixed by the method. where: what errors name."""

    shift: float = 12.0
    where: dataclasses.InitVar[str] = "scheduler config"

    def __post_init__(self, where: str):
        published.positive(where, "shift", self.shift, float)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str = "scheduler config") -> "ScheduleConfig":
        """Raises InputError if the file asks for anything but flow matching with a constant shift.

        where: the file, for the errors.
        """
        given = published.fields(where, data, cls, fixed=_FIXED, optional=_FIXED, ignored=_IGNORED)
        return cls(**given, where=where)

    def to_json(self) -> dict[str, Any]:
        """The inverse of `from_json`, without the ignored fields."""
        return _FIXED | dataclasses.asdict(self)


def sigmas(kind: str, steps: int, *, shift: float = 12.0, t_thresh: float = 0.5) -> np.ndarray:
    """Noise levels t of a run, descending, with the final 0: float32 (n + 1,) for n network calls.

    kind: see `Kind`. steps: as asked for by the user; enhance_hf and refine visit a different number. t_thresh: where
    refine starts, ignored by the others. The network's timestep is 1000 t.
    """
    try:
        kind = Kind(kind)
    except ValueError:
        raise InputError(f"schedule {kind!r} is not known: expected {', '.join(Kind)}") from None
    if steps < 1:
        raise InputError(f"steps={steps}: expected at least 1")
    if kind is Kind.DISTILLED and steps > DISTILLED_GRID:
        raise InputError(f"steps={steps}: the distilled schedule has at most {DISTILLED_GRID}")
    if kind is Kind.REFINE and not 0 < t_thresh <= 1:
        raise InputError(f"t_thresh={t_thresh}: expected a number above 0 and at most 1")
    # Levels are compared and cut as float32 timesteps, as the official code stores them.
    timesteps = shifted(_unshifted(kind, steps), shift) * np.float32(TRAIN_TIMESTEPS)
    if kind is Kind.ENHANCE_HF:
        timesteps = np.concatenate([timesteps[timesteps > 500], _TAIL])
    if kind is Kind.REFINE:
        start = np.float32(t_thresh * TRAIN_TIMESTEPS)
        timesteps = np.concatenate([[start], timesteps[timesteps < start]])
    return np.append(timesteps / np.float32(TRAIN_TIMESTEPS), 0).astype(np.float32)


def _unshifted(kind: Kind, steps: int) -> np.ndarray:
    if kind is not Kind.DISTILLED:
        return _linspace(1, 0.001, steps)
    grid = np.arange(DISTILLED_GRID, 0, -1, dtype=np.float32) / np.float32(DISTILLED_GRID)
    return grid[np.floor(np.linspace(0, DISTILLED_GRID, steps, endpoint=False)).astype(int)]


def _linspace(start: float, stop: float, count: int) -> np.ndarray:
    """To the last bit what the official code's float32 linspace gives: built from both ends, each value rounded once.
    A timestep off by one unit in the last place already moves the final latents by 3e-4."""
    i = np.arange(count)
    step = float((np.float32(stop) - np.float32(start)) / np.float32(max(count - 1, 1)))
    ends = start + step * i, float(np.float32(stop)) - step * (count - 1 - i)
    return np.where((i < count // 2) | (count == 1), *ends).astype(np.float32)


def shifted(sigma: Array, shift: float) -> Array:
    """s sigma / (1 + (s - 1) sigma): more of the run at high noise for s > 1."""
    return shift * sigma / (1 + (shift - 1) * sigma)
