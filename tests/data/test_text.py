"""Cleaning and tokenizing against the official code's results."""

import json
import logging
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.data.text import Tokenizer, clean
from lcv_jax.errors import InputError


@pytest.fixture(scope="module")
def tokenizer(checkpoint_dir):
    return Tokenizer.open(checkpoint_dir / "tokenizer")


@pytest.fixture(scope="module")
def prompts(checkpoint_dir):
    return json.loads((checkpoint_dir.parent / "umt5_prompts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", ["short", "long"])
def test_equals_the_official_cleaning_and_tokens(goldens, tokenizer, prompts, case):
    golden, items = goldens("umt5"), prompts[case]["items"]
    assert [clean(item["raw"]) for item in items] == [item["cleaned"] for item in items]
    batch = tokenizer.encode([item["raw"] for item in items], prompts[case]["max_length"])
    np.testing.assert_array_equal(batch.ids, golden[f"{case}_input_ids"])
    np.testing.assert_array_equal(batch.mask, golden[f"{case}_attention_mask"].astype(bool))
    assert batch.ids.dtype == np.int32
    assert batch.mask.dtype == bool
    for ids, mask, item in zip(batch.ids, batch.mask, items, strict=True):
        assert tokenizer.backend.convert_ids_to_tokens(ids[mask]) == item["tokens"]


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("", ""),
        ("  a \t\u3000 b\u00a0\n", "a b"),
        ("Tom &amp;amp; Jerry &lt;3", "Tom & Jerry <3"),
        ("â€œquotedâ€\x9d", '"quoted"'),
        ("ｆｕｌｌ ﬁsh", "full fish"),
        ("broken \ud800 surrogate", "broken \ufffd surrogate"),
        ("一只猫　走过", "一只猫 走过"),
    ],
)
def test_clean(raw, cleaned):
    assert clean(raw) == cleaned


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_any_text_has_ids(tokenizer, text):
    cleaned = clean(text)
    assert cleaned == cleaned.strip()
    batch = tokenizer.encode([text], 16)
    valid = batch.ids[0][batch.mask[0]]
    assert valid[-1] == tokenizer.eos_id
    assert len(valid) == min(batch.lengths[0], 16)
    assert (batch.ids[0][~batch.mask[0]] == tokenizer.pad_id).all()


def test_empty_prompt_is_the_end_token(tokenizer):
    batch = tokenizer.encode(["", " \n"], 4)
    assert batch.ids.tolist() == [[tokenizer.eos_id, 0, 0, 0]] * 2
    assert batch.mask.sum() == 2


def test_long_prompt_is_cut_with_a_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        batch = tokenizer.encode(["A red train crosses a long steel bridge.", "A cat"], 6)
    assert batch.ids[0, -1] == tokenizer.eos_id
    assert batch.mask[0].all()
    assert len(caplog.messages) == 1
    assert "'A red train" in caplog.messages[0]
    assert f"has {batch.lengths[0]} tokens, only the first 6 are used" in caplog.messages[0]
    uncut = tokenizer.encode(["A red train crosses a long steel bridge."], int(batch.lengths[0]))
    np.testing.assert_array_equal(uncut.ids[0, :5], batch.ids[0, :5])
    assert uncut.mask.all()


@pytest.mark.parametrize("prompts", ["a cat", [], [None], [b"cat"]])
def test_refuses_other_things_than_prompts(tokenizer, prompts):
    with pytest.raises(InputError, match="expected a list of at least one string"):
        tokenizer.encode(prompts)


def test_refuses_no_room(tokenizer):
    with pytest.raises(InputError, match="max_tokens=0: expected at least 1"):
        tokenizer.encode(["a"], 0)


def test_a_folder_with_pieces_only_gives_the_same_tokens(checkpoint_dir, tmp_path, tokenizer, prompts):
    """Older folders have no tokenizer.json; transformers then needs sentencepiece."""
    for file in (checkpoint_dir / "tokenizer").iterdir():
        if file.name != "tokenizer.json":
            shutil.copyfile(file, tmp_path / file.name)
    raw = [item["raw"] for item in prompts["short"]["items"]]
    np.testing.assert_array_equal(Tokenizer.open(tmp_path).encode(raw, 64).ids, tokenizer.encode(raw, 64).ids)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer .*none: no such folder"):
        Tokenizer.open(tmp_path / "none")


def test_broken_folder(checkpoint_dir, tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.open(tmp_path)
    for file in (checkpoint_dir / "tokenizer").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    (tmp_path / "tokenizer.json").write_text("{")
    (tmp_path / "spiece.model").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        Tokenizer.open(tmp_path)


def test_tokenizer_without_end_token(checkpoint_dir, tmp_path):
    for file in (checkpoint_dir / "tokenizer").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    (tmp_path / "special_tokens_map.json").unlink()
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config = {**config, "tokenizer_class": "PreTrainedTokenizerFast"}
    del config["eos_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no end token"):
        Tokenizer.open(tmp_path)
