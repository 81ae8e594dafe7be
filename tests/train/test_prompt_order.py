"""Prompts of a run: their sources and their order."""

import numpy as np
import pytest

from lcv_jax.data.toy import parse
from lcv_jax.errors import InputError
from lcv_jax.train.prompts import PromptOrder, read_prompts

NAMES = [f"prompt {i}" for i in range(5)]


def order(count=3, seed=0, rows=range, prompts=NAMES):
    return PromptOrder(prompts, count, seed, rows)


def numbers(order, steps):
    return np.concatenate([next(order).numbers for _ in range(steps)])


def test_epochs_follow_one_another_without_a_gap():
    found = numbers(order(), 10)
    for epoch in found.reshape(6, 5):
        assert sorted(epoch) == [0, 1, 2, 3, 4]
    assert len({tuple(epoch) for epoch in found.reshape(6, 5)}) > 1
    assert (numbers(order(seed=1), 10) != found).any()


def test_the_position_is_what_was_given():
    one = order()
    numbers(one, 3)
    state = one.get_state()
    assert state["prompts"] == 9
    other = order()
    other.set_state(state)
    np.testing.assert_array_equal(numbers(one, 4), numbers(other, 4))
    with pytest.raises(InputError, match=r"the checkpoint's prompts were others: 5-\w+ then, 4-\w+ now"):
        order(prompts=NAMES[:4]).set_state(state)


def test_a_host_gets_its_rows():
    whole, half = next(order()), next(order(rows=lambda count: [2]))
    np.testing.assert_array_equal(half.numbers, whole.numbers[2:])
    assert half.size == 3


def test_prompts_of_files(tmp_path):
    plain, objects = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("a cat\n\n  a dog\n", "utf-8")
    objects.write_text('{"prompt": "a cat"}\n{"prompt": "一只猫"}\n', "utf-8")
    assert read_prompts(str(plain), 0, 93) == ("a cat", "a dog")
    assert read_prompts(str(objects), 0, 93) == ("a cat", "一只猫")
    (tmp_path / "none.txt").write_text("\n")
    with pytest.raises(InputError, match=r"none\.txt: holds no prompt; expected one a line"):
        read_prompts(str(tmp_path / "none.txt"), 0, 93)
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read"):
        read_prompts("nowhere.txt", 0, 93)


def test_prompts_of_the_toy_world():
    """In both languages, readable, of as many objects as it was trained with; of pictures nothing moves."""
    found = read_prompts("toy:40", 3, 13)
    assert len(set(found)) > 30
    assert found == read_prompts("toy:40", 3, 13)
    facts = [parse(caption) for caption in found]
    assert {len(one.objects) for one in facts} == {1, 2, 3}
    assert all(found[i].isascii() == (i % 2 == 0) for i in range(40))
    assert any(one.moving for one in facts)
    assert not any(parse(caption).moving for caption in read_prompts("toy:10", 3, 1))
    with pytest.raises(InputError, match="prompts 'toy:many': expected toy:COUNT"):
        read_prompts("toy:many", 0, 13)
