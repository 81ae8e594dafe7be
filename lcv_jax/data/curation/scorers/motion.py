"""How much moves in a clip: optical flow (DIS, Kroeger et al. 2016) in percent of the frame's width a second."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from lcv_jax.data.curation.scorers.base import Plain, Sample, Scoring, View, needed


@dataclasses.dataclass(frozen=True)
class Motion(Plain):
    """Mean and 90th percentile of the flow's length, over all points and pairs of frames."""

    fields: ClassVar[tuple[str, ...]] = ("flow", "flow_p90")
    needs: ClassVar[tuple[View, ...]] = ("flow",)

    def check(self) -> None:
        needed("cv2")

    def open(self) -> Scoring:
        return self._score

    def _score(self, clips: Sequence[Sample]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for clip in clips:
            if clip.flow is None:
                found.append({"flow": None, "flow_p90": None})
                continue
            speed = 100 * np.linalg.norm(clip.flow.moves, axis=-1) / clip.flow.seconds
            found.append({"flow": float(speed.mean()), "flow_p90": float(np.percentile(speed, 90))})
        return found
