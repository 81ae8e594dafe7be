"""`python -m lcv_jax.data.toy.base --out FOLDER`: what a checkpoint of the toy world has that is not trained by steps.

FOLDER gets tokenizer/ and scheduler/ of the published layout. The tokenizer is of the published class, so it is opened
by the same code, with a small vocabulary made from captions: every English word, the Chinese names of colours, shapes
and tones, and single characters, of which it spells what it does not know. Upper case is read as lower case.
"""

import collections
import dataclasses
import io
import itertools
import json
import pathlib
import re
import string
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lcv_jax.checkpoint.folders import appearing
from lcv_jax.command_line import parse, status
from lcv_jax.data.text import clean
from lcv_jax.data.toy.captions import CHINESE, write_captions
from lcv_jax.data.toy.facts import sample
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import ScheduleConfig

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
"""Ids 0, 1 and 2."""
SHIFT = 3.0
"""Of sampling. The published 12 is for clips of 37,000 tokens; of 64 tokens the picture is made at lower noise."""
_SPACE = "\u2581"  # how SentencePiece writes the space in front of a word
_TYPED = "".join(c for c in map(chr, range(33, 127)) if not c.isupper())
_MOST_PIECES = 512
_CONFIG = {
    "tokenizer_class": "T5TokenizerFast",
    "pad_token": PAD,
    "eos_token": END,
    "unk_token": UNKNOWN,
    "extra_ids": 0,
    "additional_special_tokens": [],
    "model_max_length": 512,
}
_SPECIAL = {"pad_token": PAD, "eos_token": END, "unk_token": UNKNOWN}


@dataclasses.dataclass(frozen=True)
class Base:
    """Write the tokenizer and the schedule of the toy world's checkpoint."""

    out: str
    """Folder to make; gets tokenizer/ and scheduler/."""
    captions: int = 4000
    """How many clips' captions, in both languages, the vocabulary is made from."""
    seed: int = 0
    """Of the captions."""

    def run(self) -> None:
        if self.captions < 1000:
            raise InputError(f"--captions {self.captions}: expected at least 1000, or words are missing")
        out = pathlib.Path(self.out)
        with appearing(out) as aside:
            tokenizer, scheduler = aside / "tokenizer", aside / "scheduler"
            for folder in (tokenizer, scheduler):
                folder.mkdir()
            pieces = write_tokenizer(tokenizer, list(corpus(self.captions, self.seed)))
            _write_json(scheduler / "scheduler_config.json", ScheduleConfig(shift=SHIFT).to_json())
        print(f"{out}: tokenizer/ of {pieces} pieces, scheduler/")


def corpus(count: int, seed: int) -> Iterator[str]:
    """Captions of `count` random facts in both languages, every third without motions, as the tokenizer gets them."""
    for number in range(count):
        facts = sample([seed, number])
        captions = write_captions(facts if number % 3 else facts.without_motion(), seed + number)
        yield from (clean(caption) for caption in captions.values())


def write_tokenizer(folder: pathlib.Path, captions: Sequence[str]) -> int:
    """Writes the tokenizer's files, made from captions, and returns how many pieces it has."""
    import transformers

    (folder / "spiece.model").write_bytes(_unigram(folder, captions))
    fast = transformers.T5TokenizerFast.from_pretrained(str(folder), extra_ids=0).backend_tokenizer
    (folder / "tokenizer.json").write_text(fast.to_str(pretty=True) + "\n", encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", _CONFIG)
    _write_json(folder / "special_tokens_map.json", _SPECIAL)
    return fast.get_vocab_size()


def _unigram(scratch: pathlib.Path, captions: Sequence[str]) -> bytes:
    """A SentencePiece model of our pieces, with scores by expectation maximisation, on one thread so that it repeats.

    scratch: a folder for files that are gone afterwards; their names are taken out of the model.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    seeds, lower, model = scratch / "seeds.tsv", scratch / "lower.tsv", io.BytesIO()
    seeds.write_text("".join(f"{piece}\t{count}\n" for piece, count in _pieces(captions)), encoding="utf-8")
    lower.write_text("".join(f"{ord(c):X}\t{ord(c.lower()):X}\n" for c in string.ascii_uppercase))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        model_type="unigram",
        vocab_size=_MOST_PIECES,
        hard_vocab_limit=False,
        seed_sentencepieces_file=str(seeds),
        normalization_rule_tsv=str(lower),
        required_chars=_TYPED,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    seeds.unlink()
    lower.unlink()
    made = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    made.trainer_spec.ClearField("seed_sentencepieces_file")
    made.normalizer_spec.ClearField("normalization_rule_tsv")
    return made.SerializeToString(deterministic=True)


def _pieces(captions: Sequence[str]) -> list[tuple[str, int]]:
    """Words and characters of the captions with how often they occur, the most frequent first."""
    named = sorted(itertools.chain(*(names.values() for names in (CHINESE.colours, CHINESE.shapes, CHINESE.tones))))
    pattern = re.compile("|".join([*sorted(named, key=len, reverse=True), "(?P<word>[a-z]+)", r"\S"]))
    found = itertools.chain.from_iterable(pattern.finditer(caption.lower()) for caption in captions)
    counts = collections.Counter(_SPACE + match[0] if match["word"] else match[0] for match in found)
    return sorted(counts.items(), key=lambda piece: (-piece[1], piece[0]))


def _write_json(file: pathlib.Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0; 2 after one line about bad input, 130 after one about Ctrl-C."""
    return status(lambda: parse(Base, argv, prog="python -m lcv_jax.data.toy.base").run(), "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
