"""Embeddings: words by hand, real encoders of tiny random weights, and which caption stands for a clip."""

import json
import pathlib

import numpy as np
import pytest
import tokenizers

from captioned_clips import captioned_library, outcome
from lcv_jax.data.curation import records
from lcv_jax.data.curation.captioning import Captioning
from lcv_jax.data.curation.embedding import WORDS, Embedding, english
from lcv_jax.data.curation.fingerprints import fingerprint
from lcv_jax.errors import InputError
from tiny_onnx import write_lookup

VOCABULARY = ["[PAD]", "[UNK]", "dog", "cat", "runs", "sleeps"]


def embedded(stage: Embedding, texts, tmp_path=pathlib.Path()) -> np.ndarray:
    worker = stage.open(captioned_library(tmp_path, {}, {}))
    rows = [worker({"clip_id": str(number), "text": text})[0] for number, text in enumerate(texts)]
    assert {row["embedding_model"] for row in rows} == {stage.encoder_name()}
    assert [list(row) for row in rows] == len(rows) * [Embedding.schema.names]
    vectors = np.array([row["embedding"] for row in rows], np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    return vectors


def caption(kind: str, language: str, text: str):
    return {"kind": kind, "language": language, "text": text, "model": None, "seed": None}


def write_tokenizer(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = {word: number for number, word in enumerate(VOCABULARY)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(length=16)  # which must not reach the mean
    made.save(str(folder / "tokenizer.json"))


def test_words_and_pairs_of_words_count(tmp_path):
    texts = ["A brown dog runs", "brown dog runs.", "A dog, brown, runs!", "Grey cats sleep", "The dog runs, brown"]
    vectors = embedded(Embedding(), texts, tmp_path)
    assert vectors.shape == (5, 512)
    # Words: brown, dog, runs. Pairs: brown dog, dog runs. Five ones, each 1 / sqrt(5) or its negative.
    np.testing.assert_allclose(np.sort(np.abs(vectors[0]))[-6:], [0] + 5 * [5**-0.5], rtol=1e-6)
    np.testing.assert_array_equal(vectors[0], vectors[1])
    near = vectors @ vectors[0]
    np.testing.assert_allclose(near, [1, 1, 0.6, 0, 0.8], atol=1e-6)  # 3, 0 and 4 of 5 in common
    np.testing.assert_array_equal(vectors, embedded(Embedding(), texts, tmp_path / "again"))


def test_a_caption_without_words_is_rejected(tmp_path):
    worker = Embedding().open(captioned_library(tmp_path, {}, {}))
    for text in ("it is on the", "?"):
        with pytest.raises(InputError, match="has no words to compare"):
            worker({"clip_id": "a", "text": text})


def test_which_caption_stands_for_a_clip():
    told, basic = caption("told", "en", "told"), caption("basic", "en", "basic")
    translated, summary = caption("translated", "en", "translated"), caption("summary", "en", "summary")
    assert english([told, summary, basic, translated]) == "basic"
    assert english([summary, told, translated]) == "told"
    assert english([summary, translated]) == "translated"
    assert english([summary, caption("told", "zh", "说")]) == "summary"
    assert english([caption("composed", "en", "composed"), caption("told", "zh", "说")]) is None
    assert english([]) is None


def test_clips_without_an_english_caption_are_no_items(tmp_path):
    library = captioned_library(tmp_path, {}, {}, Captioning())
    rows = [("a", [caption("told", "en", "A dog")]), ("b", [caption("told", "zh", "狗")]), ("c", [])]
    empty = dict.fromkeys(records.CAPTIONS.names)
    library.table("caption").write(
        [empty | {"clip_id": name, "captions": captions} for name, captions in rows],
        [outcome(name) for name, _ in rows],
    )
    assert [(task.id, task.given) for task in Embedding().tasks(library)] == [("a", {"clip_id": "a", "text": "A dog"})]


def test_words_alone_are_told_of(caplog):
    Embedding().check()
    assert ["not by what they mean" in record.getMessage() for record in caplog.records] == [True]
    assert Embedding().decides() == {"encoder": WORDS}


@pytest.mark.parametrize("inputs", [("input_ids",), ("input_ids", "attention_mask", "token_type_ids")])
def test_an_onnx_model_is_averaged_over_its_tokens(tmp_path, caplog, inputs):
    rows = np.random.default_rng(0).standard_normal((len(VOCABULARY), 8)).astype(np.float32)
    write_tokenizer(tmp_path / "model")
    path = tmp_path / "model" / "encoder.onnx"
    write_lookup(path, rows, inputs)
    stage = Embedding(str(path))
    stage.check()
    assert not caplog.records
    vectors = embedded(stage, ["dog runs", "cat", "dog bites"], tmp_path)
    expected = np.stack([rows[[2, 4]].mean(0), rows[3], rows[[2, 1]].mean(0)])
    np.testing.assert_allclose(vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)
    assert stage.encoder_name() == f"encoder.onnx-{fingerprint(str(path))}"
    assert stage.decides() == {"encoder": stage.encoder_name()}
    before = stage.decides()
    write_lookup(path, rows + 1, inputs)
    assert stage.decides() != before


def test_what_is_wrong_with_an_encoder_is_told(tmp_path):
    with pytest.raises(InputError, match="no such model"):
        Embedding(str(tmp_path / "none")).decides()
    path = tmp_path / "encoder.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"it or tokenizer.json beside it cannot be read"):
        Embedding(str(path)).check()
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match=r"encoder.onnx: it or tokenizer.json beside it cannot be read"):
        Embedding(str(path)).check()
    try:
        import torch  # noqa: F401
    except ImportError:
        said = "needs torch"
    else:
        said = "cannot be read"
    with pytest.raises(InputError, match=said):
        Embedding(str(tmp_path)).check()


def test_a_transformer_is_averaged_over_its_tokens(tmp_path):
    torch = pytest.importorskip("torch")
    import transformers

    folder = tmp_path / "bert"
    write_tokenizer(folder)
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"})
    )
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
    )
    model = transformers.BertModel(config).eval()
    model.save_pretrained(str(folder))
    stage = Embedding(str(folder))
    stage.check()
    vectors = embedded(stage, ["dog runs", 9 * "cat "], tmp_path)
    for vector, ids in zip(vectors, ([2, 4], 8 * [3]), strict=True):
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match=r"--embed.device cuda: torch finds none here"):
        Embedding(str(folder), "cuda").check()
