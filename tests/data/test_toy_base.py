"""The toy checkpoint's tokenizer and schedule: opened as published ones are, small, and the same from the same seed."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcv_jax.checkpoint.layout import read_schedule
from lcv_jax.data import toy
from lcv_jax.data.text import Tokenizer
from lcv_jax.data.toy import base
from lcv_jax.data.toy.captions import LANGUAGES, write
from lcv_jax.flow.schedule import ScheduleConfig


def files(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("base") / "new" / "folder"
    assert base.main(["--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def tokenizer(out):
    return Tokenizer.open(out / "tokenizer")


def pieces(tokenizer, prompt):
    batch = tokenizer.encode([prompt])
    return tokenizer.backend.convert_ids_to_tokens(batch.ids[batch.mask])


def test_it_has_the_published_files(out, checkpoint_dir):
    names = {str(file.relative_to(checkpoint_dir)) for file in checkpoint_dir.rglob("*") if file.is_file()}
    assert set(files(out)) == {name for name in names if name.startswith(("tokenizer/", "scheduler/"))}
    assert list(out.parent.iterdir()) == [out]
    assert read_schedule(out) == ScheduleConfig(shift=base.SHIFT)


@pytest.mark.smoke
def test_captions_are_words_and_characters(tokenizer):
    caption = "A red circle moves up on a plain navy background."
    words = ["a", "red", "circle", "moves", "up", "on", "a", "plain", "navy", "background"]
    assert pieces(tokenizer, caption) == [*("▁" + word for word in words), ".", "</s>"]
    assert pieces(tokenizer, "一个红色的五角星在旋转。") == [*"▁一个", "红色", "的", "五角星", *"在旋转。", "</s>"]
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.backend.unk_token_id) == (0, 1, 2)
    assert tokenizer.token_ids == len(tokenizer.backend) < 300
    assert type(tokenizer.backend).__name__.startswith("T5Tokenizer")


def test_no_caption_has_an_unknown_piece_or_is_long(tokenizer):
    for count, typical in ((1, 32), (3, 64)):
        for language in LANGUAGES:
            captions = [write(toy.sample([7, seed], (count,)), language, seed) for seed in range(200)]
            batch = tokenizer.encode(captions, 128)
            assert batch.lengths.max() <= typical
            assert not (batch.ids == 2).any()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_any_prompt_has_ids(tokenizer, text):
    batch = tokenizer.encode([text], 200)
    assert (batch.ids < tokenizer.token_ids).all()
    assert batch.ids[0, min(batch.lengths[0], 200) - 1] == tokenizer.eos_id


def test_upper_case_is_lower_case_and_unknown_words_are_spelled(tokenizer):
    ids = [tokenizer.encode([prompt], 16).ids for prompt in ("A RED Circle Moves UP.", "a red circle moves up.")]
    np.testing.assert_array_equal(*ids)
    assert pieces(tokenizer, "zebra?") == ["▁", *"zebra?", "</s>"]
    assert pieces(tokenizer, "红猫") == ["▁", "红", "<unk>", "</s>"]


def test_spiece_model_alone_gives_the_same_tokens(out, tokenizer, tmp_path):
    import transformers

    (tmp_path / "spiece.model").write_bytes((out / "tokenizer" / "spiece.model").read_bytes())
    alone = transformers.T5TokenizerFast.from_pretrained(str(tmp_path), extra_ids=0)
    for seed in range(30):
        for caption in toy.write_captions(toy.sample(seed), seed).values():
            assert alone(caption)["input_ids"] == tokenizer.backend(caption)["input_ids"]


def test_the_same_seed_gives_the_same_files(out, tmp_path, capsys):
    assert base.main(["--out", str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'again'}: tokenizer/ of 235 pieces, scheduler/\n"
    assert files(tmp_path / "again") == files(out)
    assert not any(b"tsv" in content for content in files(out).values())
    assert base.main(["--out", str(tmp_path / "other"), "--seed", "1"]) == 0
    assert files(tmp_path / "other")["tokenizer/spiece.model"] != files(out)["tokenizer/spiece.model"]
    vocabulary = json.loads((tmp_path / "other" / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(vocabulary) == 235


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--captions", "10"], "--captions 10: expected at least 1000, or words are missing"),
        (["--seed", "-1"], "expected an integer from 0"),
        (["--outt", "x"], "outt"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, options, message):
    assert base.main(["--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_stays(tmp_path, capsys):
    assert base.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: exists already: expected a new folder")
    (tmp_path / "file").write_text("")
    assert base.main(["--out", str(tmp_path / "file" / "out")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_interruption_leaves_nothing(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "write_tokenizer", interrupt)
    assert base.main(["--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "error: interrupted; nothing was written\n"
    assert list(tmp_path.iterdir()) == []
