"""The autoencoder cut over eight virtual devices equals one device; how it is cut, and what is refused."""

import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import devices
import video_cut_battery as battery
from lcv_jax.errors import InputError
from lcv_jax.models.precision import FLOAT32
from lcv_jax.models.vae_coding import Tiling, VAECoder
from lcv_jax.parallel.halo import Pieces
from lcv_jax.parallel.video_cut import VideoCut, split_picture


def on_eight_devices(names):
    """{check: fault or ""} of the battery, from a process with eight devices."""
    return devices.report("tests/video_cut_battery.py", json.dumps(list(names)))


@pytest.fixture(scope="module")
def faults():
    return on_eight_devices(battery.CHECKS)


@pytest.fixture(scope="module")
def slow_faults():
    return on_eight_devices(battery.SLOW)


@pytest.mark.parametrize("check", battery.CHECKS)
def test_on_eight_devices(check, faults):
    assert faults[check] == "", faults[check]


@pytest.mark.slow
@pytest.mark.parametrize("check", battery.SLOW)
def test_slow_checks_on_eight_devices(check, slow_faults):
    assert slow_faults[check] == "", slow_faults[check]


@pytest.mark.parametrize(
    ("sizes", "height", "width", "rows", "columns"),
    [
        ({"a": 8}, 60, 104, (), ("a",)),  # divides
        ({"a": 8}, 104, 60, ("a",), ()),
        ({"a": 8}, 88, 160, (), ("a",)),  # both divide: the shorter border
        (
            {"a": 4, "b": 2},
            60,
            104,
            (),
            ("a", "b"),
        ),  # 86 pixels of border would be less than 120, but in two directions
        ({"a": 8, "b": 8}, 60, 104, ("b",), ("a",)),  # 8 x 13, not 1 x 104
        ({"a": 4, "b": 2}, 4, 2, ("a",), ("b",)),
        ({"a": 1, "b": 2}, 3, 3, (), ("b",)),
        ({"a": 1}, 3, 3, (), ()),
        ({}, 3, 3, (), ()),
    ],
)
def test_pictures_by_hand(sizes, height, width, rows, columns):
    assert split_picture(sizes, height, width) == (rows, columns)


@given(st.integers(1, 300), st.integers(2, 64), st.integers(1, 8))
def test_pieces_cover_what_is_cut_and_no_more_than_they_must(extent, parts, scale):
    pieces = Pieces(("a",), parts, extent)
    assert pieces.size * parts == extent + pieces.overhang
    assert pieces.size == math.ceil(extent / parts)
    # In front of the first frame stands what hangs over, and what a first latent lacks of a whole group of frames.
    assert pieces.first(scale) + scale * (extent - 1) + 1 == scale * pieces.size * parts


@pytest.fixture(scope="module")
def mesh():
    """Enough for what is refused."""
    return jax.sharding.AbstractMesh((2, 2, 2, 1), battery.ALL)


def test_it_is_a_value(mesh):
    one, other = (VAECoder(battery.SHALLOW, FLOAT32, cut=VideoCut(mesh)) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != VAECoder(battery.SHALLOW, FLOAT32, cut=VideoCut(mesh, ("data",)))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"space": ("contxt",)}, "mesh axis 'contxt': the mesh has data, fsdp, context, tensor"),
        ({"frames": ("context",)}, "mesh axis 'context' twice: expected each axis once"),
        ({"space": ("data", "data")}, "mesh axis 'data' twice"),
    ],
)
def test_meaningless_cuts_are_refused(mesh, settings, fault):
    with pytest.raises(InputError, match=fault):
        VideoCut(mesh, **settings)


def shaped(*shape):
    return np.zeros(shape, np.float32)


def run(coder, method, x):
    """A whole video by the coder's cut, whose mesh need not have devices."""
    params = battery.params_of(battery.SHALLOW)
    return jax.eval_shape(lambda params, x: coder.cut.whole(coder.model, method, params, x), params, x)


def test_videos_that_cannot_be_cut_are_refused(mesh):
    in_time = VAECoder(battery.SHALLOW, FLOAT32, cut=VideoCut(mesh, (), battery.ALL))
    assert run(in_time, "decode", shaped(1, 9, 2, 2, 2)).shape == (1, 17, 4, 4, 3)
    with pytest.raises(InputError, match=r"8 latent frames over 8 devices .* at least 9 latent frames"):
        run(in_time, "decode", shaped(1, 8, 2, 2, 2))
    with pytest.raises(InputError, match="a video of 14 frames cannot be encoded"):
        run(in_time, "encode", shaped(1, 14, 4, 4, 3))
    batch = VAECoder(battery.SHALLOW, FLOAT32, cut=VideoCut(mesh, ("data",), batch=("fsdp", "context")))
    with pytest.raises(InputError, match=r"6 videos over 4 devices .* expected a multiple"):
        run(batch, "decode", shaped(6, 1, 2, 2, 2))
    with pytest.raises(InputError, match="picture cut over devices: expected one of them"):
        VAECoder(battery.SHALLOW, FLOAT32, Tiling(64, 32), cut=VideoCut(mesh))


def test_a_stream_is_not_cut_in_time():
    one = jax.make_mesh((1,), ("context",), axis_types=(jax.sharding.AxisType.Auto,))
    coder = VAECoder(battery.SHALLOW, FLOAT32, cut=VideoCut(one, (), ("context",)))
    with pytest.raises(InputError, match=r"a stream cut in time over .*context.* cut its space"):
        list(coder.decode_stream(battery.params_of(battery.SHALLOW), [shaped(1, 2, 2, 2, 2)]))
