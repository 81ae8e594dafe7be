"""Upsampling of decoded videos for refinement: linear in space and time, corners aligned (SPEC 6)."""

from collections.abc import Iterator, Sequence

import numpy as np

from lcv_jax.data.images import to_model


def upsampled(frames: np.ndarray, size: tuple[int, int], count: int, wanted: Sequence[int]) -> Iterator[np.ndarray]:
    """Frames of the upsampled video one by one, float32 (H, W, 3) in [-1, 1].

    frames: uint8 (F, h, w, 3). size: (H, W). count: frames of the whole upsampled video, whose first and last are those
    of the input. wanted: indices into it, in any order and number; memory is that of two frames.
    """
    resized: dict[int, np.ndarray] = {}
    for index in wanted:
        before, after, weight = _between(len(frames), count, index)
        resized = {i: resized[i] if i in resized else _resize(frames[i], size) for i in {before, after}}
        if weight == 0:
            yield resized[before]
        else:
            yield resized[before] * (np.float32(1) - weight) + resized[after] * weight


def _resize(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear, of one frame, in float32."""
    x = to_model(frame)
    for axis, length in enumerate(size):
        places = [_between(x.shape[axis], length, i) for i in range(length)]
        before, after = (np.take(x, [place[n] for place in places], axis=axis) for n in (0, 1))
        weight = np.array([place[2] for place in places], np.float32)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        x = before * (np.float32(1) - weight) + after * weight
    return x


def _between(have: int, want: int, index: int) -> tuple[int, int, np.float32]:
    """Where sample `index` of `want` lies among `have`: the two neighbours and the weight of the second."""
    position = np.float32(index) * (np.float32(have - 1) / np.float32(want - 1) if want > 1 else np.float32(0))
    before = min(int(position), have - 1)
    return before, min(before + 1, have - 1), position - np.float32(before)
