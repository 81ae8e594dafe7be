"""Text encoder and autoencoder of a checkpoint without its DiT: for caching data, and around a DiT that is trained."""

import dataclasses
import hashlib
import json
import os
import pathlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from lcv_jax.checkpoint import hub, layout
from lcv_jax.checkpoint.load import load_params
from lcv_jax.data.images import to_uint8
from lcv_jax.data.text import Tokenizer
from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT
from lcv_jax.models.precision import Precision
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae import Posterior
from lcv_jax.models.vae_coding import VAECoder, uncut
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.video_cut import VideoCut
from lcv_jax.sample.adapters import Adapters
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.parts import encode_text
from lcv_jax.sample.pipeline import Pipeline

Array = jax.Array
NAMES = ("vae", "text_encoder")


@dataclasses.dataclass(frozen=True, eq=False)
class Encoders:
    """files: the two models' folders by name, headers checked. params: their weights, {} until `load`."""

    folder: pathlib.Path
    files: Mapping[str, layout.Model]
    precision: Precision
    tokenizer: Tokenizer
    placement: MeshPlacement
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def open(
        cls, path_or_repo: os.PathLike[str] | str, placement: MeshPlacement, dtype: str | None = None
    ) -> "Encoders":
        """All but the weights. The folder may lack a DiT. Raises InputError on anything wrong with the files."""
        folder = hub.resolve(path_or_repo)
        layout.find(folder)
        files = {name: layout.open_model(layout.COMPONENTS[name], layout.folder(folder, name)) for name in NAMES}
        tokenizer = Tokenizer.open(layout.folder(folder, "tokenizer"))
        vocabulary = files["text_encoder"].config.vocab_size
        if vocabulary < tokenizer.token_ids:
            raise InputError(
                f"{folder}: text_encoder/ has vocab_size={vocabulary}, but tokenizer/ has {tokenizer.token_ids} ids: "
                "take both from one checkpoint"
            )
        return cls(folder, files, Precision.named(dtype), tokenizer, placement)

    def load(self, names: Sequence[str] = NAMES) -> "Encoders":
        """With the weights, of one model or both, on their shards."""
        return dataclasses.replace(self, params={name: self._load(self.files[name]) for name in names})

    def _load(self, model: layout.Model) -> Any:
        where = self.placement.params(model.config, model.abstract)
        return load_params(
            model.source, model.component.table, model.abstract, dtype=self.precision.param, shardings=where
        )

    @property
    def coder(self) -> VAECoder:
        cut = uncut if self.placement.mesh.size == 1 else VideoCut(self.placement.mesh)
        return VAECoder(self.files["vae"].config, self.precision, cut=cut)

    @property
    def text_encoder(self) -> UMT5Encoder:
        return UMT5Encoder(self.files["text_encoder"].config, self.precision)

    def encode_prompts(self, prompts: Sequence[str], max_text_tokens: int) -> list[np.ndarray]:
        """The states (l, D) of each prompt's own tokens, without padding."""
        tokens = self.tokenizer.encode(list(prompts), max_text_tokens)
        ids, mask = self.placement.put(tokens.ids), self.placement.put(tokens.mask)
        states = self.placement.fetch(encode_text(self.text_encoder, self.params["text_encoder"], ids, mask))
        return [row[: int(kept.sum())] for row, kept in zip(states, tokens.mask, strict=True)]

    def posterior(self, video: Any) -> Posterior:
        """Of (B, F, H, W, 3) in [-1, 1], F = 4n + 1; raw latents, float32."""
        return self.posterior_of([jnp.asarray(video, jnp.float32)])

    def posterior_of(self, pieces: Iterable[Any]) -> Posterior:
        """The same of a video that comes in pieces along F, float32; memory is that of the pieces."""
        parts = list(self.coder.encode_stream(self.params["vae"], pieces))
        return jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)

    def frames(self, latents: Array) -> np.ndarray:
        """Raw latents (B, T, h, w, C) -> uint8 (B, 4 (T - 1) + 1, H, W, 3)."""
        pieces = self.coder.decode_stream(self.params["vae"], [latents])
        return np.concatenate([self.placement.fetch(to_uint8(piece)) for piece in pieces], axis=1)

    def pipeline(self, dit: DiT, params: Any) -> Pipeline:
        """A pipeline around a DiT that is not the checkpoint's; the encoders' weights must be loaded."""
        opened = Opened(
            folder=self.folder,
            files=self.files,
            precision=self.precision,
            tokenizer=self.tokenizer,
            schedule=layout.read_schedule(self.folder),
            dit=dit,
            text_encoder=self.text_encoder,
            coder=self.coder,
            placement=self.placement,
        )
        return Pipeline(opened, {**self.params, "dit": params}, Adapters(opened))


def fingerprint(model: layout.Model) -> str:
    """Of a model's architecture and weights, the same in either layout, and in float32 and bfloat16: weights count
    as rounded to bfloat16. Reads all of them."""
    config = dataclasses.asdict(model.config)
    text = json.dumps({name: config[name] for name in sorted(config)}, default=str)
    value = 0
    for leaf in model.leaves:
        for name, _ in leaf.parts:
            value = zlib.crc32(name.encode(), value)
            tensor = model.source.read(name, np.dtype(ml_dtypes.bfloat16))
            value = zlib.crc32(np.ascontiguousarray(tensor).view(np.uint8), value)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:8]}-{value:08x}"


def tokenizer_fingerprint(folder: os.PathLike[str] | str) -> str:
    """Of a tokenizer's files."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(folder).iterdir()):
        if path.is_file() and not path.name.startswith("."):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
