"""Long videos of a film maker whose colours are known."""

import dataclasses

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.eval.drift import STAYING, drift, films
from lcv_jax.eval.sampling import Sampling
from lcv_jax.eval.shares import share

SAMPLING = Sampling((64, 64), 13, 5, steps=2, guidance=1.0, max_text_tokens=8, seed=7)


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A segment: its new frames (1, F, H, W, 3)."""

    frames: np.ndarray


@dataclasses.dataclass
class Maker:
    """Draws what the prompt asks for, darker from segment to segment by `fade`."""

    fade: float
    asked: list = dataclasses.field(default_factory=list)

    def long_video(self, prompt, segments, **options):
        self.asked.append((prompt, options))
        facts = toy.parse(prompt)
        shown = dataclasses.replace(facts, ground=facts.ground or toy.Ground("white"))
        for index in range(segments):
            clip = toy.render(shown, 1, (64, 64), 13 if index == 0 else 8).clip
            yield Drawn((clip * (1 - self.fade * (index + 1))).astype(np.uint8)[None])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_colours_that_fade_are_measured(language):
    maker = Maker(0.03)
    made = list(films(maker, SAMPLING, 3, 4, (1, 2), language))
    found = drift(made)
    assert (found["films"], found["segments"], found["kept"]) == (3, 4, share(3, 3))
    assert found["errors"] == sorted(found["errors"])
    assert (found["first"], found["last"]) == (found["errors"][0], found["errors"][-1])
    assert found["ratio"] == pytest.approx(4, rel=0.15)
    assert all(len(film.shown) == 4 for film in made)
    facts = [toy.parse(prompt, language) for prompt, _ in maker.asked]
    assert all(each.motion in STAYING for one in facts for each in one.objects)
    assert [options["seed"] for _, options in maker.asked] == [7, 11, 15]
    assert all(options["num_cond_frames"] == 5 and options["size"] == (64, 64) for _, options in maker.asked)
    assert [toy.parse(film.caption, "en").objects for film in made] == [one.objects for one in facts]


def test_colours_that_stay_have_no_ratio():
    found = drift(list(films(Maker(0.0), SAMPLING, 2, 3, (1,), "en")))
    assert (found["errors"], found["ratio"]) == ([0, 0, 0], None)


def test_what_is_lost_is_told():
    (film,) = films(Maker(0.45), SAMPLING, 1, 2, (1,), "en")
    assert not film.kept
