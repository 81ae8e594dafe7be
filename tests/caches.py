"""Datasets for the tests of data and training: random latents in shards, without encoders."""

import json
import pathlib

import ml_dtypes
import numpy as np

from lcv_jax.data.records import Record
from lcv_jax.data.shards import (
    DEVIATIONS,
    INDEX,
    LATENTS,
    PROMPTS,
    TEXT,
    UPSAMPLED,
    UPSAMPLED_DEVIATIONS,
    Encoding,
    Index,
    write_shard,
)
from lcv_jax.data.storage import Folder

ENCODING = Encoding(
    vae="a",
    text_encoder="b",
    tokenizer="c",
    channels=16,
    text_width=8,
    max_text_tokens=6,
    dtype="bfloat16",
    posterior="sample",
    fps=15,
)
BF16 = np.dtype(ml_dtypes.bfloat16)


def record(number: int, form=(2, 4, 4), encoding: Encoding = ENCODING) -> Record:
    """Its latents begin with its number; those that its refinement starts from are the negative ones."""
    rng = np.random.default_rng(number)
    latents = rng.normal(size=(*form, encoding.channels))
    latents.flat[0] = number
    arrays = {LATENTS: latents.astype(BF16), DEVIATIONS: np.full_like(latents, 0.5).astype(BF16)}
    if encoding.pairs is not None:
        arrays |= {UPSAMPLED: -arrays[LATENTS], UPSAMPLED_DEVIATIONS: np.full_like(latents, 0.25).astype(BF16)}
    for n, name in enumerate(("en", "zh"), 1):
        arrays[TEXT + name] = np.full((1 + number % 4, encoding.text_width), n).astype(BF16)
    return Record(f"clip-{number}", {"en": f"{number}", "zh": f"第{number}"}, arrays)


def dataset(place: pathlib.Path | str, forms, per_shard: int = 4, encoding: Encoding = ENCODING) -> str:
    """A dataset with a record of each of the forms. Returns the place."""
    folder, forms = Folder(place), list(forms)
    cuts = [range(at, min(at + per_shard, len(forms))) for at in range(0, len(forms), per_shard)]
    shards = tuple(
        write_shard(folder, f"{i:05d}.arrayrecord", [record(n, forms[n], encoding) for n in cut])
        for i, cut in enumerate(cuts)
    )
    states = np.zeros((1, encoding.text_width), BF16)
    prompts = write_shard(folder, PROMPTS, [Record("empty", {"empty": ""}, {TEXT + "empty": states})])
    folder.write(INDEX, json.dumps(Index(encoding, shards, prompts, "test").to_json()))
    return str(place)
