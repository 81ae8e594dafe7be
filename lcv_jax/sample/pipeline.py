"""The whole model as one object: weights in, videos out."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.checkpoint import hub, layout, lora
from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.source import read_json
from lcv_jax.data import images
from lcv_jax.data.text import Tokenizer
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT, KVCache
from lcv_jax.models.layers import lora_collection
from lcv_jax.models.precision import Precision
from lcv_jax.models.umt5 import TextStates, UMT5Encoder
from lcv_jax.models.vae import Posterior, WanVAE, denormalize, normalize
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.sample import memory, prepare
from lcv_jax.sample.denoise import Conditioning, denoise
from lcv_jax.sample.options import Options

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Pipeline:
    """Text encoder, DiT and VAE with their weights. It holds no state of a run.

    dit, vae, text_encoder: the modules; params: their parameters under the same names. adapters: LoRAs loaded so far,
    by name; others are looked for as lora/NAME_lora.safetensors of the checkpoint when first used.
    """

    dit: DiT
    vae: WanVAE
    text_encoder: UMT5Encoder
    params: Mapping[str, Any] = dataclasses.field(repr=False)
    tokenizer: Tokenizer
    schedule: ScheduleConfig
    folder: pathlib.Path
    adapters: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str],
        dtype: str | None = None,
        mesh: Any = None,
        *,
        revision: str | None = None,
        check_finite: bool = False,
    ) -> "Pipeline":
        """Loads a checkpoint: a directory in the published layout or in ours, or a hub id "org/name".

        dtype: "bfloat16" or "float32", of weights and computation; None is bfloat16, on a CPU float32. revision: of
        the hub repository. check_finite: refuse weights that hold NaN or infinity. Raises InputError on anything
        wrong with the files, and if the weights do not fit, before they are read.
        """
        if mesh is not None:
            raise InputError(f"{mesh=}: sampling on a mesh is not available yet, leave it out")
        precision = Precision.named(dtype)
        folder = hub.resolve(path_or_repo, revision)
        scheduler = layout.folder(folder, "scheduler") / "scheduler_config.json"
        schedule = ScheduleConfig.from_json(read_json(scheduler))
        tokenizer = Tokenizer.open(layout.folder(folder, "tokenizer"))
        models = {
            name: layout.open_model(component, layout.folder(folder, name))
            for name, component in layout.COMPONENTS.items()
        }
        memory.check(
            sum(memory.tree_bytes(zoo.abstract_params(m.config, precision)) for m in models.values()),
            f"{folder} in {precision.param}",
            "use bfloat16 or a device with more memory",
        )
        params = {
            name: load_params(m.source, m.component.table, m.abstract, dtype=precision.param, check_finite=check_finite)
            for name, m in models.items()
        }
        return cls(
            DiT(models["dit"].config, precision),
            WanVAE(models["vae"].config, precision),
            UMT5Encoder(models["text_encoder"].config, precision),
            params,
            tokenizer,
            schedule,
            folder,
        )

    @property
    def coder(self) -> VAECoder:
        """The autoencoder as it is run here: a stream over time, so that memory does not grow with length."""
        return VAECoder(self.vae.config, self.vae.precision)

    @property
    def pixel_multiple(self) -> int:
        """What height and width in pixels divide by."""
        return self.vae.config.spatial_factor * max(self.dit.config.patch_size[1:])

    # Adapters

    def load_lora(self, path: str | os.PathLike[str], name: str, scale: float = 1.0) -> None:
        """Reads a LoRA file under a name, which tasks then take in `loras`. scale multiplies the file's own."""
        abstract = zoo.abstract_params(self.dit.config, self.dit.precision)
        adapter = lora.load_lora(path, abstract, dtype=self.dit.precision.param)
        self.adapters[name] = _scaled(adapter, scale)

    def variables(self, loras: Sequence[str] = ()) -> dict[str, Any]:
        """The DiT's variables with the adapters of these names active."""
        missing = [name for name in loras if name not in self.adapters]
        for name in missing:
            path = self.folder / "lora" / f"{name}_lora.safetensors"
            if not path.is_file():
                raise InputError(f"LoRA {name!r} is not loaded and {path} does not exist: load_lora(path, {name!r})")
            self.load_lora(path, name)
        params = {"params": self.params["dit"]}
        if not loras:
            return params
        return params | {"lora": lora_collection({name: self.adapters[name] for name in loras})}

    # Parts

    def encode_prompt(self, prompts: str | Sequence[str], max_text_tokens: int = 512) -> TextStates:
        """Text states (B, max_text_tokens, D_text) and their mask. An empty prompt is its end token alone."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        tokens = self.tokenizer.encode(prompts, max_text_tokens)
        mask = jnp.asarray(tokens.mask)
        with self._precise():
            states = _encode_text(self.text_encoder, self.params["text_encoder"], jnp.asarray(tokens.ids), mask)
        return TextStates(states, mask)

    def posterior(self, video: Any) -> Posterior:
        """The VAE's posterior, not normalised, of (B, F, H, W, 3) in [-1, 1] with F = 4n + 1."""
        with self._precise():
            video = _checked_video(video)
            self.vae.config.latent_frames(video.shape[1])  # raises unless 4n + 1
            parts = list(self.coder.encode_stream(self.params["vae"], [video]))
            return jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)

    def normalized(self, z: Array) -> Array:
        """Raw latents as the DiT sees them."""
        return normalize(self.vae.config, z)

    def encode_video(self, video: Any, posterior: str = "mode", seed: int = 0) -> Array:
        """(B, F, H, W, 3) in [-1, 1] -> normalised latents (B, T, h, w, C) float32; raises unless F is 4n + 1.

        posterior: "mode", or "sample" with the seed.
        """
        if posterior not in ("mode", "sample"):
            raise InputError(f"{posterior=}: expected 'mode' or 'sample'")
        found = self.posterior(video)
        return self.normalized(found.mode() if posterior == "mode" else found.sample(jax.random.key(seed)))

    def decode_video(self, latents: Any) -> np.ndarray:
        """Normalised latents (B, T, h, w, C) -> video (B, F, H, W, 3) float32 in [-1, 1], F = 4 (T - 1) + 1."""
        return np.concatenate(list(self._decoded(latents)), axis=1)

    def velocity(
        self,
        latents: Any,
        t: Any,
        text: TextStates,
        num_cond: int = 0,
        cache: KVCache | None = None,
        loras: Sequence[str] = (),
        sparse: Any = None,
    ) -> Array:
        """The DiT's velocity x0 - noise, float32, shaped like latents (B, T, h, w, C); t: (B, T) in [0, 1].

        With a cache, latents and t hold only the noisy frames, and num_cond may be left out.
        """
        _no_sparse(sparse)
        text = text.checked()
        latents, t = jnp.asarray(latents, jnp.float32), jnp.asarray(t, jnp.float32)
        if t.shape != latents.shape[:2]:
            raise InputError(f"t of shape {t.shape}: expected (B, T) = {latents.shape[:2]}, one for each latent frame")
        with self._precise():
            return _velocity(self.dit, self.variables(loras), latents, t, text, cache, num_cond=num_cond)

    def condition_cache(self, latents: Any, loras: Sequence[str] = (), sparse: Any = None) -> KVCache:
        """Keys and values of clean condition latents (B or 1, n, h, w, C)."""
        _no_sparse(sparse)
        with self._precise():
            return _condition_cache(self.dit, self.variables(loras), jnp.asarray(latents, jnp.float32))

    # Tasks

    def text_to_video(self, prompt: str | Sequence[str], **options: Any) -> Any:
        """A video, or with num_frames=1 an image, of each prompt. options: see `Options`."""
        o = Options(**options)
        return self._finish(prepare.text_to_video(self, o.prompts(prompt), o), o)

    def image_to_video(self, image: Any, prompt: str | Sequence[str], **options: Any) -> Any:
        """A video that starts with the image (PIL, or uint8 (H, W, 3)), for each prompt. options: see `Options`."""
        o = Options(**options)
        return self._finish(prepare.image_to_video(self, o.prompts(prompt), o, image), o)

    def continue_video(
        self,
        video: Any,
        prompt: str | Sequence[str],
        *,
        num_cond_frames: int = 13,
        kv_cache: bool = True,
        enhance_hf: bool | None = None,
        **options: Any,
    ) -> Any:
        """A video whose first num_cond_frames (4n + 1) are the input's last, for each prompt.

        video: PIL images or uint8 (F, H, W, 3) at 15 frames a second. kv_cache: compute the condition's keys and
        values once; under guidance the two ways differ, because without it the condition takes part in the guidance
        projection. enhance_hf: the schedule with a uniform tail; None is on unless distilled. options: see `Options`.
        """
        o = Options(**options)
        task = {"num_cond_frames": num_cond_frames, "kv_cache": kv_cache, "enhance_hf": enhance_hf}
        return self._finish(prepare.continuation(self, o.prompts(prompt), o, video, **task), o)

    def _finish(self, conditioning: Conditioning, options: Options) -> Any:
        with self._precise():
            latents = denoise(self.dit, self.variables(options.active_loras), conditioning, options.on_step)
        if options.output == "latents":
            return np.asarray(latents)
        return self.frames(latents)

    def frames(self, latents: Any) -> np.ndarray:
        """Normalised latents -> uint8 (B, F, H, W, 3), decoded as a stream, so that only the bytes add up."""
        rows = []
        for row in jnp.asarray(latents):
            rows.append(np.concatenate([images.to_uint8(chunk[0]) for chunk in self._decoded(row[None])]))
        return np.stack(rows)

    def _decoded(self, latents: Any):
        raw = denormalize(self.vae.config, jnp.asarray(latents, jnp.float32))
        with self._precise():
            yield from (np.asarray(x) for x in self.coder.decode_stream(self.params["vae"], [raw]))

    def _precise(self) -> contextlib.AbstractContextManager:
        """A float32 pipeline multiplies in full float32 on every backend."""
        if self.dit.precision.compute == jnp.float32:
            return jax.default_matmul_precision("highest")
        return contextlib.nullcontext()


def _scaled(tree: Mapping[str, Any], scale: float) -> dict[str, Any]:
    """A LoRA tree whose scales are multiplied by `scale`."""
    return {
        key: _scaled(value, scale) if isinstance(value, Mapping) else value * scale if key == "scale" else value
        for key, value in tree.items()
    }


def _no_sparse(sparse: Any) -> None:
    if sparse is not None:
        raise InputError(f"{sparse=}: block sparse attention is not available yet, leave it out")


def _checked_video(video: Any) -> Array:
    video = jnp.asarray(video)
    if not jnp.issubdtype(video.dtype, jnp.floating) or video.ndim != 5 or video.shape[-1] != 3:
        raise InputError(f"video {video.dtype} {video.shape}: expected (B, F, H, W, 3), floats in [-1, 1]")
    return video.astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="model")
def _encode_text(model: UMT5Encoder, params: Any, ids: Array, mask: Array) -> Array:
    return model.apply({"params": params}, ids, mask)


@functools.partial(jax.jit, static_argnames=("model", "num_cond"))
def _velocity(model, variables, latents, t, text, cache, *, num_cond):
    return model.apply(variables, latents, t, text.states, text.mask, num_cond=num_cond, cache=cache)


@functools.partial(jax.jit, static_argnames="model")
def _condition_cache(model: DiT, variables: Any, latents: Array) -> KVCache:
    return model.apply(variables, latents, method="condition").cache
