"""Sizes of a resolution, and of one's own."""

import pytest

from lcv_jax.data.buckets import nearest
from lcv_jax.data.sizes import Sizes
from lcv_jax.errors import InputError


@pytest.mark.parametrize("resolution", ["480p", "720p"])
@pytest.mark.parametrize("clip", [(1080, 1920), (1920, 1080), (500, 500), (300, 900)])
def test_published_sizes_are_the_buckets(resolution, clip):
    assert Sizes.of(resolution).nearest(*clip) == nearest(*clip, resolution, 16)


def test_small_sizes_have_the_area_of_256():
    small = Sizes.of("256p")
    assert small.nearest(100, 100) == (256, 256)
    for height, width in small.sizes:
        assert height % 16 == 0
        assert width % 16 == 0
        assert 0.85 < height * width / 256**2 < 1.15
    assert all(h % 64 == 0 and w % 64 == 0 for h, w in Sizes.of("256p", 64).sizes)


def test_ones_own_sizes():
    own = Sizes.of("64x64,64x96")
    assert own.nearest(100, 110) == (64, 64)
    assert own.nearest(100, 160) == (64, 96)
    with pytest.raises(InputError, match="size 64 x 96: height and width must be multiples of 64"):
        Sizes.of("64x64,64x96", 64)
    with pytest.raises(InputError, match="size '64by96': expected 256p, 480p, 720p, or HEIGHTxWIDTH such as 64x96"):
        Sizes.of("64by96")
