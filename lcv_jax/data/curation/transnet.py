"""TransNetV2 (Souček and Lokoč, 2020, arXiv:2008.04838), which tells of each frame whether a transition is there.

Frames of 27 x 48 pixels go through stacks of cells. A cell is four convolutions in space, each followed by one in time
that looks 1, 2, 4 or 8 frames to either side; two cells and an average over 2 x 2 pixels make a stack, whose output is
the sum of both cells. The features of each frame, its similarity to the frames around it, once of learned features and
once of colour histograms, go through one hidden layer to two heads: the middle of a transition, and all of its frames.

Axes: B windows, T frames, H, W, C. 3-D convolutions are written as those in space and sums of shifted products in time,
and the statistics of normalisation are folded into the latter. Float32 throughout.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint.tensorfile import TensorFile
from lcv_jax.data.files import Path
from lcv_jax.errors import InputError

HEIGHT, WIDTH = 27, 48
WINDOW, STRIDE = 100, 50
"""Frames that are looked at together, of which those in the middle are scored."""
_BEFORE = (WINDOW - STRIDE) // 2
_DILATIONS = (1, 2, 4, 8)
_LOOK = 50  # frames to either side that a frame is compared with
_BINS = 512  # of a colour histogram: 8 levels of each colour
_EPSILON = 1e-3  # of normalisation
_SIMILAR = 128


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Of the published network. filters: of the first stack's convolutions; twice as many in each further one."""

    filters: int = 16
    stacks: int = 3
    cells: int = 2
    hidden: int = 1024

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The published weights: shapes by name. Convolutions are (out, in, T, H, W)."""
        found: dict[str, tuple[int, ...]] = {}
        channels, height, width, features = 3, HEIGHT, WIDTH, 0
        for stack in range(self.stacks):
            filters = self.filters << stack
            for cell in range(self.cells):
                name = f"SDDCNN.{stack}.DDCNN.{cell}"
                for dilation in _DILATIONS:
                    found[f"{name}.Conv3D_{dilation}.layers.0.weight"] = (2 * filters, channels, 1, 3, 3)
                    found[f"{name}.Conv3D_{dilation}.layers.1.weight"] = (filters, 2 * filters, 3, 1, 1)
                channels = 4 * filters
                found |= {
                    f"{name}.bn.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
                }
            height, width, features = height // 2, width // 2, features + channels
        around = 2 * _LOOK + 1
        inputs = channels * height * width + 2 * _SIMILAR
        linear = {
            "frame_sim_layer.projection": (_SIMILAR, features),
            "frame_sim_layer.fc": (_SIMILAR, around),
            "color_hist_layer.fc": (_SIMILAR, around),
            "fc1": (self.hidden, inputs),
            "cls_layer1": (1, self.hidden),
            "cls_layer2": (1, self.hidden),
        }
        for name, shape in linear.items():
            found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return found


@dataclasses.dataclass(frozen=True)
class Network:
    """weights: as `prepared` makes them."""

    weights: Mapping[str, np.ndarray]
    architecture: Architecture = Architecture()


def load(path: Path, architecture: Architecture = Architecture()) -> Network:
    """The weights of a safetensors file. Raises InputError unless it holds exactly the published ones; counters that
    training leaves in it do not matter."""
    file = TensorFile.open(path)
    expected = architecture.shapes()
    found = {name: info for name, info in file.tensors.items() if not name.endswith(".num_batches_tracked")}
    where = f"{path}: TransNetV2"
    if missing := expected.keys() - found.keys():
        raise InputError(f"{where}: {len(missing)} weights are missing, such as {min(missing)}; {_AGAIN}")
    if unknown := found.keys() - expected.keys():
        raise InputError(f"{where}: {len(unknown)} weights are unknown, such as {min(unknown)}; {_AGAIN}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise InputError(f"{where}: {name} is {found[name].shape}, expected {shape}; {_AGAIN}")
    read = {name: file.read(name, np.dtype("float32")) for name in expected}
    return Network(prepared(read, architecture), architecture)


_AGAIN = "convert the published file as docs/curation/shots.md says"


def prepared(published: Mapping[str, np.ndarray], architecture: Architecture) -> dict[str, np.ndarray]:
    """The published weights as `scores` wants them: channels last, the four branches of a cell side by side, and
    normalisation in the convolutions over time and a bias."""
    found: dict[str, np.ndarray] = {}
    for stack in range(architecture.stacks):
        for cell in range(architecture.cells):
            name = f"SDDCNN.{stack}.DDCNN.{cell}"
            scale = published[f"{name}.bn.weight"] / np.sqrt(published[f"{name}.bn.running_var"] + _EPSILON)
            bias = published[f"{name}.bn.bias"] - published[f"{name}.bn.running_mean"] * scale
            space = [published[f"{name}.Conv3D_{dilation}.layers.0.weight"][:, :, 0] for dilation in _DILATIONS]
            time = [published[f"{name}.Conv3D_{dilation}.layers.1.weight"][..., 0, 0] for dilation in _DILATIONS]
            scaled = np.stack(time) * scale.reshape(len(_DILATIONS), -1, 1, 1)
            found |= {
                f"{stack}.{cell}.space": np.concatenate(space).transpose(2, 3, 1, 0),  # (3, 3, in, branches x out)
                f"{stack}.{cell}.time": scaled.transpose(0, 3, 2, 1),  # (branch, shift, in, out)
                f"{stack}.{cell}.bias": bias,
            }
    for name, value in published.items():
        if not name.startswith("SDDCNN"):
            found[name] = value.T if value.ndim == 2 else value
    return found


@functools.partial(jax.jit, static_argnames="architecture")
def scores(weights: Mapping[str, jax.Array], frames: jax.Array, architecture: Architecture) -> jax.Array:
    """Of each frame, whether it is the middle of a transition, and whether it is in one: (B, T, 2) float32 in 0..1.

    frames: (B, T, 27, 48, 3) uint8, RGB. Frames near the ends of a window lack their surroundings; see `Scores`.
    """
    x = frames.astype(jnp.float32) / 255
    means = []
    for stack in range(architecture.stacks):
        first = None
        for cell in range(architecture.cells):
            x = jax.nn.relu(_cell(weights, f"{stack}.{cell}", x))
            first = x if first is None else first
        x = _halved(x + first)
        means.append(x.mean((2, 3)))
    similar = _linear(weights, "frame_sim_layer.projection", jnp.concatenate(means, -1))
    parts = [
        _compared(weights, "color_hist_layer.fc", _histograms(frames)),
        _compared(weights, "frame_sim_layer.fc", similar),
        x.reshape(*x.shape[:2], -1),
    ]
    hidden = jax.nn.relu(_linear(weights, "fc1", jnp.concatenate(parts, -1)))
    heads = [_linear(weights, name, hidden) for name in ("cls_layer1", "cls_layer2")]
    return jax.nn.sigmoid(jnp.concatenate(heads, -1))


class Scores:
    """Scores of a video's frames, given one by one. Memory: a window, and two numbers a frame."""

    def __init__(self, network: Network):
        self._network = network
        self._weights = jax.device_put(dict(network.weights))
        self._held: list[np.ndarray] = []
        self._found: list[np.ndarray] = []
        self._count = 0

    def take(self, frame: np.ndarray) -> None:
        """frame: (27, 48, 3) uint8. In front of the first one, it stands in for those that a window lacks."""
        self._held += [frame] * (1 if self._count else 1 + _BEFORE)
        self._count += 1
        self._look()

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """After the last frame, of each frame: the middle of a transition, in a transition; (F,) float32 in 0..1."""
        if self._count:
            last = self._held[-1]
            while sum(map(len, self._found)) < self._count:
                self._held.append(last)
                self._look()
        found = np.concatenate([np.zeros((0, 2), np.float32), *self._found])[: self._count]
        return found[:, 0], found[:, 1]

    def _look(self) -> None:
        if len(self._held) < WINDOW:
            return
        found = scores(self._weights, np.stack(self._held)[None], self._network.architecture)
        self._found.append(np.asarray(found[0, _BEFORE : _BEFORE + STRIDE]))
        self._held = self._held[STRIDE:]


def _cell(weights: Mapping[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    """(B, T, H, W, C) to (B, T, H, W, 4 filters), before its activation."""
    batch, frames, height, width, _ = x.shape
    space = jax.lax.conv_general_dilated(
        x.reshape(batch * frames, *x.shape[2:]),
        weights[f"{name}.space"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    branches = jnp.split(space.reshape(batch, frames, height * width, -1), len(_DILATIONS), -1)
    times = zip(branches, weights[f"{name}.time"], _DILATIONS, strict=True)
    joined = jnp.concatenate([_over_time(*branch) for branch in times], -1)
    return joined.reshape(batch, frames, height, width, -1) + weights[f"{name}.bias"]


def _over_time(x: jax.Array, kernel: jax.Array, dilation: int) -> jax.Array:
    """A convolution of three taps in time. x: (B, T, N, C). kernel: (3, C, D)."""
    frames = x.shape[1]
    padded = jnp.pad(x, ((0, 0), (dilation, dilation), (0, 0), (0, 0)))
    taps = [padded[:, tap * dilation : tap * dilation + frames] @ kernel[tap] for tap in range(3)]
    return taps[0] + taps[1] + taps[2]


def _halved(x: jax.Array) -> jax.Array:
    """Averages of 2 x 2 pixels; an odd last row or column is left out."""
    height, width = x.shape[2] // 2, x.shape[3] // 2
    x = x[:, :, : 2 * height, : 2 * width]
    return x.reshape(*x.shape[:2], height, 2, width, 2, -1).mean((3, 5))


def _histograms(frames: jax.Array) -> jax.Array:
    """Shares of colours: (B, T, 512) float32."""
    batch, count = frames.shape[:2]
    levels = (frames >> 5).astype(jnp.int32)
    colours = (levels[..., 0] * 64 + levels[..., 1] * 8 + levels[..., 2]).reshape(batch * count, -1)
    empty = jnp.zeros((batch * count, _BINS), jnp.float32)
    filled = empty.at[jnp.arange(batch * count)[:, None], colours].add(1)
    return filled.reshape(batch, count, _BINS)


def _compared(weights: Mapping[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    """What a layer makes of the cosines between each frame and those around it, 0 where there are none; x: (B, T, C)"""
    frames = x.shape[1]
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    cosines = jnp.pad(x @ x.swapaxes(1, 2), ((0, 0), (0, 0), (_LOOK, _LOOK)))
    around = jnp.arange(frames)[:, None] + jnp.arange(2 * _LOOK + 1)
    return jax.nn.relu(_linear(weights, name, jnp.take_along_axis(cosines, around[None], axis=2)))


def _linear(weights: Mapping[str, jax.Array], name: str, x: jax.Array) -> jax.Array:
    return x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
