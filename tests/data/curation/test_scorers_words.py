"""Text that is read, what it covers, and what is a watermark: lines drawn by OpenCV, read by the real models."""

import dataclasses
import pathlib

import cv2
import numpy as np
import pytest

from lcv_jax.data.curation.scorers.base import Sample, Word
from lcv_jax.data.curation.scorers.watermark import Watermark, open_model, overlap, probability
from lcv_jax.data.curation.scorers.words import Text, WordReader, Words, covered
from lcv_jax.errors import InputError

SIZE = 360, 640


def word(text, left, top, right, bottom, score=0.9) -> Word:
    return Word(text, score, np.float32([[left, top], [right, top], [right, bottom], [left, bottom]]))


def sample(words, change=40.0, **more) -> Sample:
    """Stills whose brightness changes, or not, and what is read on them."""
    levels = 120 + change * np.resize([-1, 1], len(words))
    stills = np.broadcast_to(levels[:, None, None, None], (len(words), 36, 64, 3)).astype(np.uint8)
    return Sample("x", stills, words=tuple(map(tuple, words)), **more)


def marked(clip, **settings):
    return Watermark(**settings).open()([clip])[0]


@pytest.fixture(scope="module")
def reader():
    return WordReader(Words(frames=3, side=640))


def smooth(seed) -> np.ndarray:
    """A soft ground, such as detection alone takes for text."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(40, 160, (4, 7, 3), np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)


def test_text_is_read_where_it_stands(reader):
    frame = smooth(1)
    cv2.putText(frame, "Morning news", (100, 300), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (255, 255, 255), 3)
    ((found,),) = reader.read(frame[None])
    assert found.text.replace(" ", "") == "Morningnews"
    assert found.score > 0.9
    left, top, right, bottom = found.box
    (wide, tall), below = cv2.getTextSize("Morning news", cv2.FONT_HERSHEY_SIMPLEX, 1.6, 3)
    assert left == pytest.approx(100 / 640, abs=0.02)
    assert right == pytest.approx((100 + wide) / 640, abs=0.02)
    assert top == pytest.approx((300 - tall) / 360, abs=0.03)
    assert bottom == pytest.approx((300 + below) / 360, abs=0.03)


def test_grounds_without_text_give_none(reader):
    assert reader.read(np.stack([smooth(seed) for seed in range(3)])) == ((), (), ())
    assert reader.read(np.zeros((1, *SIZE, 3), np.uint8)) == ((),)


def test_single_characters_are_not_believed():
    reader = WordReader(Words(frames=1, side=640, characters=20))
    frame = np.zeros((*SIZE, 3), np.uint8)
    cv2.putText(frame, "Morning news", (100, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (255, 255, 255), 3)
    assert reader.read(frame[None]) == ((),)


def test_covered_counts_once():
    half = word("a", 0.0, 0.0, 1.0, 0.5)
    assert covered([half], SIZE) == pytest.approx(0.5, abs=0.01)
    assert covered([half, half], SIZE) == pytest.approx(0.5, abs=0.01)
    assert covered([half, word("b", 0.5, 0.25, 1.0, 1.0)], SIZE) == pytest.approx(0.75, abs=0.01)
    slanted = Word("c", 1.0, np.float32([[0.5, 0.0], [1.0, 0.5], [0.5, 1.0], [0.0, 0.5]]))
    assert covered([slanted], SIZE) == pytest.approx(0.5, abs=0.01)
    assert covered([], SIZE) == 0


def test_text_is_told_most_often_first():
    once, twice = word("once", 0, 0, 0.5, 0.5), word("twice", 0.5, 0.5, 1.0, 1.0)
    clip = sample([[once, twice], [twice], [], []])
    found = Text().open()([clip, sample([[], []])])
    assert found[0]["text"] == "twice\nonce"
    assert found[0]["text_area"] == pytest.approx((0.5 + 0.25) / 4, abs=0.01)
    assert found[0]["text_area_max"] == pytest.approx(0.5, abs=0.02)
    assert found[1] == {"text_area": 0.0, "text_area_max": 0.0, "text": ""}


CORNER = word("brand", 0.8, 0.9, 0.98, 0.97)


def test_a_mark_of_the_source_is_a_watermark():
    clip = sample([[], []], overlay=(0.8, 0.8, 0.1, 0.1))
    assert marked(clip) == {"watermark": 1.0, "watermark_method": "overlay"}
    assert marked(sample([[], []])) == {"watermark": 0.0, "watermark_method": None}


def test_text_that_stands_in_a_corner_is_a_watermark():
    moved = word("brand", 0.8, 0.91, 0.98, 0.98)
    assert marked(sample([[CORNER], [moved], [CORNER], []])) == {"watermark": 0.75, "watermark_method": "text"}
    assert marked(sample([[CORNER], [], [], []]))["watermark"] == 0
    assert marked(sample([[CORNER]]), margin=0.12)["watermark"] == 0.5  # of one frame: who knows
    # Where the picture stands still, all text in it does.
    assert marked(sample([[CORNER], [CORNER]], change=1.0))["watermark"] == 0.5


@pytest.mark.parametrize("box", [(0.3, 0.9, 0.7, 0.97), (0.4, 0.4, 0.6, 0.6), (0.8, 0.4, 0.98, 0.5)])
def test_text_elsewhere_is_none(box):
    assert marked(sample([[word("title", *box)]] * 4))["watermark"] == 0


def test_text_that_moves_is_none():
    moving = [[word("sign", left, 0.9, left + 0.1, 0.97)] for left in (0.01, 0.06, 0.11, 0.0)]
    assert marked(sample(moving), same=0.95)["watermark"] == 0


def test_overlap_by_hand():
    one, other = word("", 0, 0, 0.4, 0.4), word("", 0.2, 0, 0.6, 0.4)
    assert overlap(one, other) == pytest.approx(1 / 3)
    assert overlap(one, word("", 0.5, 0, 0.6, 0.4)) == 0


def test_probabilities():
    assert probability(np.float32([[0.3, 0.7], [1, 0]])).tolist() == pytest.approx([0.7, 0])
    assert probability(np.float32([[0, 0], [1, 3]])).tolist() == pytest.approx([0.5, 1 / (1 + np.exp(-2))])
    assert probability(np.float32([[0.25]])).tolist() == [0.25]
    assert probability(np.float32([[3.0], [-3.0]])).tolist() == pytest.approx(
        [1 / (1 + np.exp(-3)), 1 / (1 + np.exp(3))]
    )


def models() -> pathlib.Path:
    import rapidocr

    return pathlib.Path(rapidocr.__file__).parent / "models"


def test_a_model_is_asked(tmp_path):
    """Any classifier of two classes will do: here the one that tells whether a line stands on its head."""
    (path,) = models().glob("*cls*.onnx")
    model = tmp_path / "mark.onnx"
    model.write_bytes(path.read_bytes())
    scorer = Watermark(model=str(model), frames=2)
    scorer.check()
    clip = Sample("x", np.stack([smooth(1)] * 4), words=((),) * 4)
    found = scorer.open()([clip])[0]
    expected = float(open_model(str(model))(clip.stills[:1])[0])
    assert 0 < expected <= 1
    assert found == {"watermark": pytest.approx(expected), "watermark_method": "mark"}
    told = scorer.decides()["model"]
    assert told == dataclasses.replace(scorer, model=str(path)).decides()["model"] != str(model)
    assert Watermark().decides()["model"] is None


def test_bad_models_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"watermark model no\.onnx: no such file"):
        Watermark(model="no.onnx").check()
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"bad\.onnx: cannot be loaded .*expected ONNX"):
        Watermark(model=str(bad)).check()
    (detector,) = models().glob("*det*.onnx")
    with pytest.raises(InputError, match=r"gives .*expected \(N, 1\) or \(N, 2\)"):
        Watermark(model=str(detector)).check()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Words(frames=0), r"--annotate\.words\.frames=0"),
        (lambda: Words(score=2.0), r"--annotate\.words\.score=2.0: expected 0 to 1"),
        (lambda: Words(characters=0), r"--annotate\.words\.characters=0"),
        (lambda: Words(side=1), r"--annotate\.words\.side=1"),
        (lambda: Watermark(margin=0.6), "watermark, margin=0.6: expected 0 to 0.5"),
        (lambda: Watermark(same=-1.0), "watermark, same=-1.0"),
        (lambda: Watermark(changed=-1.0), "watermark, changed=-1.0"),
        (lambda: Watermark(frames=0), "watermark, frames=0"),
    ],
)
def test_settings_are_checked(make, match):
    with pytest.raises(InputError, match=match):
        make()
