"""The strict reader of published JSON."""

import dataclasses

import pytest

from lcv_jax import published
from lcv_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Config:
    width: int
    widths: tuple[int, ...] = ()


def read(data, **options):
    return published.fields("a.json", data, Config, **options)


def test_fields_under_our_names_with_lists_as_tuples():
    options = {"renamed": {"widths": "wydths"}, "fixed": {"kind": "b"}, "ignored": ("run_*", "note")}
    data = {"width": 3, "wydths": [1, 2], "kind": "b", "run_fast": True, "note": 1, "_version": 2}
    assert read(data, **options) == {"width": 3, "widths": (1, 2)}


def test_defaults_do_not_stand_in_for_keys_unless_told():
    assert read({"width": 3}, optional=("widths",)) == {"width": 3}
    with pytest.raises(InputError, match=r"^a\.json: field 'widths' is missing: take the file"):
        read({"width": 3})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([1], r"a\.json: \[1\]: expected a JSON object"),
        ({"width": 3, "height": 4}, "unknown field 'height': expected only width, widths; check"),
        ({"width": 3, "kind": "c"}, "kind='c': expected 'b', the only value supported"),
        ({"width": 3}, "field 'kind' is missing"),
    ],
)
def test_refused(data, message):
    with pytest.raises(InputError, match=message):
        read(data, fixed={"kind": "b"}, optional=("widths",))


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "1", None])
def test_not_a_positive_whole_number(value):
    with pytest.raises(InputError, match=r"x: n=.*: expected a positive whole number"):
        published.positive("x", "n", value)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), True, "1"])
def test_not_a_positive_number(value):
    with pytest.raises(InputError, match=r"x: n=.*: expected a positive number"):
        published.positive("x", "n", value, float)


@pytest.mark.parametrize("value", [(1, 2), (1, 2, 0), [1, 2, 3], 3])
def test_not_three_positive_whole_numbers(value):
    with pytest.raises(InputError, match=r"x: n=.*: expected 3 positive whole numbers"):
        published.positives("x", "n", value, 3)


def test_numbers_that_pass():
    published.positive("x", "n", 1)
    published.positive("x", "n", 2, float)
    published.positive("x", "n", 0.5, float)
    published.positives("x", "n", (1, 2, 3), 3)
