"""What is encoded is what is decoded."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_jax.rewards import wire

VIDEOS = hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3, st.just(3)))


@given(st.lists(st.tuples(VIDEOS, st.text()), min_size=1, max_size=4), st.text(min_size=1), st.floats(1e-3, 1e6))
def test_requests_survive_the_journey(pairs, name, patience):
    videos, prompts = zip(*pairs, strict=True)
    sent = wire.Request(name, videos, prompts, patience)
    found = wire.decode(bytearray(b"".join(wire.encode(sent))))
    assert (found.reward, tuple(found.prompts), found.patience_s) == (name, prompts, patience)
    for video, arrived in zip(videos, found.videos, strict=True):
        np.testing.assert_array_equal(arrived, video)


@pytest.mark.smoke
def test_the_format_by_hand():
    video = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    head = b'{"reward": "a", "prompts": ["b"], "shapes": [[1, 2, 2]], "patience_s": 2.5}'
    expected = b"LCVR" + len(head).to_bytes(4, "little") + head + bytes(range(12))
    assert b"".join(wire.encode(wire.Request("a", [video], ["b"], 2.5))) == expected


def test_frames_that_do_not_lie_in_one_piece():
    video = np.arange(48, dtype=np.uint8).reshape(4, 2, 2, 3)[::2]
    (arrived,) = wire.decode(b"".join(wire.encode(wire.Request("a", [video], ["b"], 1.0)))).videos
    np.testing.assert_array_equal(arrived, video)


@given(st.binary(max_size=64))
def test_anything_else_is_refused(noise):
    with pytest.raises(ValueError, match=r".+"):
        wire.decode(noise)
    with pytest.raises(ValueError, match=r".+"):
        wire.decode(b"LCVR" + noise)


@given(st.lists(st.floats(width=32), max_size=5))
def test_scores_survive_the_journey(scores):
    given = np.array(scores, np.float32)
    arrived = wire.scores_from_json(wire.scores_to_json(given), len(scores))
    np.testing.assert_array_equal(arrived, np.where(np.isfinite(given), given, np.nan))
