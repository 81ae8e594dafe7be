"""Convolutions of the video autoencoder: causal in time, channels last.

Measured with XLA in float32 on two cores with AVX-512, for 96 to 384 channels, in GFLOP/s of the plain
definition, zero frames included:

causal 3x3x3 at the start of a video of 2 to 5 frames
    one 2-D convolution a tap, added, zero frames left out   420-900   (chosen)
    the same with the zero frames                            280-460   (what a later chunk costs)
    one 2-D convolution, taps joined along its outputs       310-460
    one 2-D convolution, taps joined along its inputs        170-440
    XLA's 3-D convolution                                    160-350
    27 shifted matrix products                               110-290
    one matrix product over gathered windows                  60-210
    (PyTorch's 3-D convolution                               170-520)
nearest neighbour x2, then 3x3
    four sub-pixel 2x2 convolutions                          610-950   (chosen)
    one strided transposed convolution                       290-830
    one 3x3 convolution with four times the outputs          380-490
    as written                                               260-410

GPUs and TPUs have good convolutions and take the plain definitions: one 3-D, or one 3x3 on the doubled image.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

_AXES_2D = ("NHWC", "HWIO", "NHWC")
_AXES_3D = ("NDHWC", "DHWIO", "NDHWC")

Padding = tuple[tuple[int, int], tuple[int, int]]
"""Zeros (above, below), (left of, right of) a picture."""
SAME: Padding = ((1, 1), (1, 1))
"""What a 3x3 window needs for an output as large as its input."""


def conv2d(x: jax.Array, kernel: jax.Array, *, stride: int = 1, padding: Padding = SAME) -> jax.Array:
    """Convolves every frame: x (B, T, H, W, C), kernel (h, w, C, O), padding in (rows, columns)."""
    y = _conv2d(x.reshape(-1, *x.shape[2:]), kernel, stride, padding)
    return y.reshape(*x.shape[:2], *y.shape[1:])


def causal_conv3d(x: jax.Array, kernel: jax.Array, past: jax.Array | None = None, padding: Padding = SAME) -> jax.Array:
    """A 3x3x3 convolution that sees no later frame.

    x (B, T, H, W, C); kernel (3, 3, 3, C, O); past (B, 2, H, W, C): the two frames before x, None at the start of a
    video, where they count as zero; padding: zeros around the picture, none where x and past already hold what lies
    there. Returns (B, T, H, W, O) in x's dtype, H and W less by 2 where there is no padding.
    """
    if past is None:
        return _by_platform({"cpu": _start_2d, "default": _start_3d}, padding, x, kernel)
    return _by_platform({"cpu": _later_2d, "default": _later_3d}, padding, past, x, kernel)


def temporal_conv(frames: jax.Array, kernel: jax.Array, *, stride: int = 1) -> jax.Array:
    """A convolution over time only, without padding, as one matrix product over the joined taps.

    frames (B, T, H, W, C); kernel (taps, 1, 1, C, O). Returns (B, (T - taps) // stride + 1, H, W, O), no
    frame when T < taps.
    """
    taps, *_, outputs = kernel.shape
    steps = max(0, (frames.shape[1] - taps) // stride + 1)
    joined = [frames[:, k : k + steps * stride : stride] for k in range(taps)]
    return jnp.concatenate(joined, axis=-1) @ kernel.reshape(-1, outputs)


def upsample_conv2d(x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    """Nearest neighbour x2 in height and width, then a 3x3 convolution.

    x (B, T, H, W, C), kernel (3, 3, C, O); padding for each axis: (1, 1) for zeros around the picture, (0, 0) where x
    already holds the next pixel at both ends. Returns (B, T, 2H, 2W, O), H and W without those pixels.
    """
    return _by_platform({"cpu": _upsample_in_phases, "default": _upsample_as_written}, padding, x, kernel)


def _by_platform(forms: dict[str, Callable[..., jax.Array]], padding: Padding, *arrays: jax.Array) -> jax.Array:
    """Lowers for each platform to its form."""
    chosen = {platform: functools.partial(form, padding=padding) for platform, form in forms.items()}
    return lax.platform_dependent(*arrays, **chosen)


def _upsample_as_written(x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    batch, frames, height, width, channels = x.shape
    doubled = jnp.broadcast_to(x[:, :, :, None, :, None], (batch, frames, height, 2, width, 2, channels))
    doubled = doubled.reshape(batch, frames, 2 * height, 2 * width, channels)
    for axis, pad in zip((2, 3), padding, strict=True):
        if pad == (0, 0):  # of a neighbouring pixel's two copies a window reaches one
            doubled = lax.slice_in_dim(doubled, 1, doubled.shape[axis] - 1, axis=axis)
    return conv2d(doubled, kernel, padding=padding)


def _upsample_in_phases(x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    """The same at 4/9 of the arithmetic.

    An output pixel sees three rows of the doubled image, but only two of the original: in even rows the
    first kernel row meets the original row above and the other two the same row; in odd rows the first two
    meet the same row and the third the row below. Columns alike. So each of the four phases is a 2x2
    convolution whose kernel holds sums of rows and columns.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)  # a CPU has no narrower products: keep the sums exact
    wide = x.astype(dtype)
    parts = [
        _phase(wide, phase, (i, j), padding)[:, :, :, None, :, None]
        for i, row in enumerate(_phases(kernel.astype(dtype), axis=0))
        for j, phase in enumerate(_phases(row, axis=1))
    ]
    even, odd = jnp.concatenate(parts[:2], axis=5), jnp.concatenate(parts[2:], axis=5)
    y = jnp.concatenate([even, odd], axis=3)
    batch, frames, height, _, width, _, outputs = y.shape
    return y.reshape(batch, frames, 2 * height, 2 * width, outputs).astype(x.dtype)


def _phase(x: jax.Array, kernel: jax.Array, odd: tuple[int, int], padding: Padding) -> jax.Array:
    """The 2x2 convolution of the even (0) or odd (1) output rows and columns."""
    pads = []
    for axis, pad, i in zip((2, 3), padding, odd, strict=True):
        if pad == (0, 0):
            x = lax.slice_in_dim(x, i, x.shape[axis] - 1 + i, axis=axis)
        pads.append((min(pad[0], 1 - i), min(pad[1], i)))
    return conv2d(x, kernel, padding=tuple(pads))


def _phases(kernel: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    first, middle, last = jnp.split(kernel, 3, axis=axis)
    return jnp.concatenate([first, middle + last], axis), jnp.concatenate([first + middle, last], axis)


def _conv2d(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=_AXES_2D)


def _start_3d(x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1, 1), ((2, 0), *padding), dimension_numbers=_AXES_3D)


def _later_3d(past: jax.Array, x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    frames = jnp.concatenate([past, x], axis=1)
    return lax.conv_general_dilated(frames, kernel, (1, 1, 1), ((0, 0), *padding), dimension_numbers=_AXES_3D)


def _start_2d(x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    """Tap 2 - d meets the frame d steps back; where that lies before the video nothing is computed."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))  # a CPU has no narrower products: sum the taps wide
    steps = x.shape[1]
    y = conv2d(wide, kernel[2].astype(wide.dtype), padding=padding)
    for delay in range(1, min(3, steps)):
        tap = conv2d(wide[:, : steps - delay], kernel[2 - delay].astype(wide.dtype), padding=padding)
        y += jnp.pad(tap, ((0, 0), (delay, 0), (0, 0), (0, 0), (0, 0)))
    return y.astype(x.dtype)


def _later_2d(past: jax.Array, x: jax.Array, kernel: jax.Array, padding: Padding = SAME) -> jax.Array:
    """Each tap joins its own frames: one copy each for two taps, none for the last."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    past, frames, kernel = past.astype(wide), x.astype(wide), kernel.astype(wide)
    y = conv2d(frames, kernel[2], padding=padding)
    for k in range(2):
        y += conv2d(jnp.concatenate([past[:, k:], frames], axis=1)[:, : x.shape[1]], kernel[k], padding=padding)
    return y.astype(x.dtype)
