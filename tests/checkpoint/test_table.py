"""The table's parts: axes there and back, templates, and that it never guesses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.checkpoint.table import (
    CONV2,
    CONV3,
    DIT,
    GAMMA2,
    GAMMA3,
    LINEAR,
    PATCH,
    POINT2,
    POINT3,
    SAME,
    UMT5,
    VAE,
    Axes,
    Place,
)
from lcv_jax.errors import InputError

RANKS = {SAME: 1, LINEAR: 2, CONV2: 4, CONV3: 5, PATCH: 5, POINT2: 2, POINT3: 2, GAMMA2: 1, GAMMA3: 1}


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(list(RANKS)), st.lists(st.integers(1, 4), min_size=5, max_size=5))
def test_axes_there_and_back(axes, sizes):
    shape = (*sizes[: RANKS[axes]], *(1,) * axes.ones)
    official = np.arange(np.prod(shape)).reshape(shape)
    ours = axes.ours(official)
    assert axes.official_shape(ours.shape) == shape
    np.testing.assert_array_equal(axes.official(ours), official)


def test_axes_by_hand():
    """A convolution is (out, in, t, h, w) officially, (t, h, w, in, out) with us; patches keep in first."""
    kernel = np.arange(2 * 3 * 5 * 7 * 11).reshape(2, 3, 5, 7, 11)
    assert CONV3.ours(kernel)[4, 6, 10, 2, 1] == kernel[1, 2, 4, 6, 10]
    assert PATCH.ours(kernel)[2, 4, 6, 10, 1] == kernel[1, 2, 4, 6, 10]
    assert CONV2.ours(kernel[:, :, 0])[6, 10, 2, 1] == kernel[1, 2, 0, 6, 10]
    assert POINT3.ours(kernel[:, :, :1, :1, :1])[2, 1] == kernel[1, 2, 0, 0, 0]
    fused = np.arange(6 * 5).reshape(6, 5)  # three projections to two outputs each
    assert Axes((1, 0), groups=3).ours(fused)[4, 2, 1] == fused[2 * 2 + 1, 4]


def test_cuts_of_official_tensors():
    """What a device gets of an official tensor is never less than what it keeps of ours."""
    assert LINEAR.official_cut(("fsdp", "tensor")) == ("tensor", "fsdp")
    assert Axes((1, 0), groups=3).official_cut(("fsdp", None, "tensor")) == (None, "fsdp")
    assert Axes(groups=3).official_cut((None, "tensor")) == (None,)
    assert CONV3.official_cut((None, None, None, "x", "y")) == ("y", "x", None, None, None)
    assert POINT3.official_cut(("x", "y")) == ("y", "x", None, None, None)


def test_place_of_a_name():
    assert DIT.locate("blocks.47.attn.qkv.weight") == Place("blocks/attn/qkv/kernel", 47, Axes((1, 0), groups=3))
    assert DIT.locate("t_embedder.mlp.2.bias") == Place("t_embedder/mlp_2/bias", None, SAME)
    assert UMT5.locate("encoder.block.3.layer.1.layer_norm.weight") == Place("block/ffn_norm/scale", 3, SAME)
    up = VAE.locate("decoder.up_blocks.1.upsamplers.0.time_conv.weight")
    assert up == Place("decoder/up_blocks_1/upsampler/time_conv/kernel", None, CONV3)


def test_names_of_a_leaf():
    names = DIT.names("blocks/ffn/w1/kernel", 2)
    assert [name for name, _ in names] == ["blocks.0.ffn.w1.weight", "blocks.1.ffn.w1.weight"]
    assert DIT.names("t_embedder/mlp_0/kernel", 5) == [
        ("t_embedder.mlp.0.weight", Place("t_embedder/mlp_0/kernel", None, LINEAR))
    ]


@pytest.mark.parametrize("name", ["blocks.x.attn.qkv.weight", "blocks.0.attn.qkv", "Blocks.0.attn.qkv.weight", ""])
def test_unknown_names(name):
    with pytest.raises(InputError, match=r"is not a tensor of the DiT"):
        DIT.locate(name)


def test_unknown_paths():
    with pytest.raises(KeyError, match=r"'blocks/nothing' is described by 0 rules"):
        DIT.names("blocks/nothing", 1)
