"""The toy world as a data source: records by number, pure, of mixed forms, in two disjoint splits."""

import collections
import pickle

import numpy as np
import pytest

from lcv_jax.data import toy
from lcv_jax.errors import InputError

SMALL = toy.Form((32, 48), 5)
PICTURE = toy.Form((32, 32), 1, weight=3)


@pytest.fixture(scope="module")
def source():
    return toy.ToySource(400, 0, (SMALL, PICTURE))


def test_a_record_is_what_the_generator_draws(source):
    record = source[7]
    assert sorted(record) == ["caption_en", "caption_zh", "facts", "key", "video"]
    form = source.form(7)
    assert record["video"].shape == (form.frames, *form.size, 3)
    assert record["video"].dtype == np.uint8
    assert record["facts"] == source.facts(7) == toy.judge(record["video"]).facts
    assert toy.parse(record["caption_en"]).objects == record["facts"].objects
    assert toy.parse(record["caption_zh"]).objects == record["facts"].objects


def test_records_depend_on_seed_split_and_index_alone(source):
    longer = pickle.loads(pickle.dumps(toy.ToySource(4000, 0, (SMALL, PICTURE))))
    for index in (399, 3, np.int64(3)):
        one, other = source[index], longer[index]
        assert one["video"].tobytes() == other["video"].tobytes()
        assert {**one, "video": 0} == {**other, "video": 0}
    others = [toy.ToySource(9, 1, (SMALL,)), toy.ToySource(9, 0, (SMALL,), split="held_out")]
    records = [source[3], *(each[3] for each in others)]
    assert len({record["key"] for record in records}) == 3
    assert len({record["video"].tobytes() for record in records}) == 3


def test_it_is_a_sequence(source):
    assert len(source) == 400
    assert len(list(toy.ToySource(3, 0, (SMALL,)))) == 3
    assert len({source[i]["key"] for i in range(20)}) == 20
    for index in (400, -1):
        with pytest.raises(IndexError, match=f"record {index}: the source has 400"):
            source[index]
    assert toy.ToySource(0, 0, (SMALL,)).length == 0


def test_forms_are_mixed_by_weight(source):
    forms = collections.Counter(source.form(i) for i in range(400))
    assert set(forms) == {SMALL, PICTURE}
    assert forms[PICTURE] == pytest.approx(300, abs=4 * (400 * 0.25 * 0.75) ** 0.5)


def test_pictures_have_facts_without_motion(source):
    for i in range(50):
        assert source.facts(i).moving == (source.form(i) == SMALL)


def test_splits_share_no_facts():
    splits = {
        split: {toy.ToySource(1000, seed, (SMALL,), (1,), split).facts(i) for seed in (0, 1) for i in range(500)}
        for split in toy.SPLITS
    }
    assert not splits["train"] & splits["held_out"]
    assert all(toy.split_of(facts) == split for split, some in splits.items() for facts in some)
    assert len(splits["held_out"]) > 400  # enough different prompts to ask for


def test_one_in_ten_facts_is_held_out():
    held = sum(toy.split_of(toy.sample(seed)) == "held_out" for seed in range(2000))
    assert held == pytest.approx(200, abs=4 * (2000 * 0.1 * 0.9) ** 0.5)


def test_counts_are_kept():
    source = toy.ToySource(30, 0, (SMALL,), counts=(2,))
    assert {len(source.facts(i).objects) for i in range(30)} == {2}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: toy.ToySource(-1, 0, (SMALL,)), "length=-1: expected at least 0"),
        (lambda: toy.ToySource(1, 0, ()), "forms: none given"),
        (lambda: toy.ToySource(1, 0, (SMALL,), split="test"), "split 'test': expected one of train, held_out"),
        (lambda: toy.ToySource(1, -2, (SMALL,)), "seed=-2: expected an integer"),
        (lambda: toy.ToySource(1, 0, (SMALL,), (0,)), r"counts=\(0,\): expected numbers of objects"),
        (lambda: toy.Form((16, 64), 5), r"size=\(16, 64\): expected"),
        (lambda: toy.Form((64, 64), 0), "frames=0: expected at least 1"),
        (lambda: toy.Form((64, 64), 5, weight=0), "weight=0: expected a positive number"),
        (lambda: toy.Form((64, 64), 5, weight=float("nan")), "weight=nan: expected a positive number"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
