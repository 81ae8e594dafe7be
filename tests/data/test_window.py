"""How refined clips are padded: whole blocks, and every frame in them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lcv_jax.data.window import window
from lcv_jax.errors import InputError


@given(st.integers(1, 400), st.integers(0, 60))
def test_windows_are_whole_blocks_and_hold_every_frame(frames, cond):
    if cond >= frames:
        with pytest.raises(InputError, match="expected fewer"):
            window(frames, cond)
        return
    w = window(frames, cond)
    padded = len(w.places)
    assert padded == w.front + frames + w.back == 4 * (w.latents - 1) + 1
    assert w.latents % 4 == w.cond_latents % 4 == 0
    assert min(w.front, w.back) >= 0
    if cond:
        assert w.front + cond == 4 * (w.cond_latents - 1) + 1
    else:
        assert w.front == w.cond_latents == 0


def test_published_windows():
    assert window(186, 0).latents == 48
    assert window(186, 26).latents == 48
    assert (window(186, 1).cond_latents, window(186, 1).latents) == (4, 52)
    assert (window(93, 0).latents, window(93, 13).latents, window(93, 1).latents) == (24, 24, 28)


def test_frames_shown_by_hand():
    """9 frames behind a picture, latents in twos: 5 frames of condition, 8 others of which none is repeated."""
    found = window(9, 1, multiple=2)
    assert (found.front, found.back, found.cond_latents, found.latents) == (4, 0, 2, 4)
    assert found.shown == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert window(3, 0, multiple=1).shown == [0, 1, 2, 2, 2]
