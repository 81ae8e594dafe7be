"""The toy world encoded while training, instead of from a cache: every clip is drawn, encoded and forgotten.

For runs in which the encoders are small and clips are without end. It costs the encoders' memory and time on the first
local device beside the step; a cache costs neither, and is what everything else uses.
"""

import threading
import zlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data.images import to_model
from lcv_jax.data.records import DTYPES, Record
from lcv_jax.data.shards import DEVIATIONS, LATENTS, TEXT, Encoding, Form
from lcv_jax.data.sources import TOY, open_toy
from lcv_jax.errors import InputError
from lcv_jax.models.vae import normalize
from lcv_jax.sample.encoders import Encoders, fingerprint, tokenizer_fingerprint


class LiveToy:
    """What the loader takes instead of a `data.shards.Dataset`.

    place: "toy:COUNT HxWxF HxWxF@WEIGHT ...", as the options --source and --forms of the cache are. dtype: as a cache
    would store it. Raises InputError.
    """

    def __init__(self, place: str, encoders: Encoders, max_text_tokens: int, *, seed: int, dtype: str = "bfloat16"):
        count, *forms = place.split()
        self.place, self._encoders = place, encoders.load()
        self._source = open_toy(count, forms, seed, "train", (1, 2, 3))
        self._dtype = DTYPES[dtype]
        self._lock = threading.Lock()  # one clip at a time: the device is what all wait for
        vae, text = (encoders.files[name] for name in ("vae", "text_encoder"))
        self.encoding = Encoding(
            vae=fingerprint(vae),
            text_encoder=fingerprint(text),
            tokenizer=tokenizer_fingerprint(encoders.folder / "tokenizer"),
            channels=vae.config.z_dim,
            text_width=text.config.d_model,
            max_text_tokens=max_text_tokens,
            dtype=dtype,
            posterior="sample",
            fps=15,
        )
        if not len(self._source):
            raise InputError(f"{place}: expected at least one clip")
        self.forms: Sequence[Form] = tuple(self._form(number) for number in range(len(self._source)))

    def _form(self, number: int) -> Form:
        config, form = self._encoders.files["vae"].config, self._source.clips.form(number)
        height, width = form.size
        if height % config.spatial_factor or width % config.spatial_factor:
            raise InputError(f"{self.place}: {height}x{width}: expected multiples of {config.spatial_factor}")
        return config.latent_frames(form.frames), height // config.spatial_factor, width // config.spatial_factor

    @property
    def fingerprint(self) -> str:
        return f"{len(self.forms)}-{zlib.crc32(self._source.name.encode()):08x}"

    def prompts(self) -> Mapping[str, np.ndarray]:
        return {"": self._text([""])[0]}

    def __getitem__(self, number: int) -> Record:
        item = self._source[number]
        with self._lock:
            found = self._encoders.posterior(to_model(item.frames)[None])
            states = self._text(list(item.captions.values()))
        config = self._encoders.files["vae"].config
        spread = jnp.exp(0.5 * found.logvar) / jnp.asarray(config.latents_std)
        arrays = {LATENTS: normalize(config, found.mean), DEVIATIONS: spread}
        arrays = {name: np.asarray(value[0]).astype(self._dtype) for name, value in jax.device_get(arrays).items()}
        return Record(
            item.key, item.captions, arrays | dict(zip((TEXT + name for name in item.captions), states, strict=True))
        )

    def _text(self, prompts: Sequence[str]) -> list[np.ndarray]:
        rows = self._encoders.encode_prompts(prompts, self.encoding.max_text_tokens)
        return [np.asarray(row).astype(self._dtype) for row in rows]


def is_live(path: str) -> bool:
    return path.startswith(TOY)
