"""The models with their weights, each usable alone: text, latents and frames, velocity, condition cache."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lcv_jax.data import images
from lcv_jax.errors import InputError
from lcv_jax.models.dit import DiT, KVCache
from lcv_jax.models.dit_config import DiTConfig
from lcv_jax.models.umt5 import TextStates, UMT5Encoder
from lcv_jax.models.vae import Posterior, denormalize, normalize
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.ops.attention import Attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel import host_memory
from lcv_jax.sample.adapters import Adapters
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import SEEDS, one_of, whole

Array = jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Text encoder, DiT and VAE of a checkpoint. It holds no state of a run.

    params: their parameters by name, "dit", "vae", "text_encoder". adapters: the LoRAs.
    """

    opened: Opened
    params: Mapping[str, Any] = dataclasses.field(repr=False)
    adapters: Adapters = dataclasses.field(repr=False)

    @property
    def dit(self) -> DiT:
        return self.opened.dit

    @property
    def text_encoder(self) -> UMT5Encoder:
        return self.opened.text_encoder

    @property
    def coder(self) -> VAECoder:
        """The autoencoder as it is run here: a stream over time, so that memory does not grow with length."""
        return self.opened.coder

    def load_lora(self, path: str | os.PathLike[str], name: str, scale: float = 1.0) -> None:
        """Reads a LoRA file under a name, which tasks then take in `loras`. scale multiplies the file's own."""
        self.adapters.load(path, name, scale)

    def variables(self, loras: Sequence[str] = ()) -> dict[str, Any]:
        """The DiT's variables with the adapters of these names active."""
        params = {"params": self.params["dit"]}
        return params | {"lora": self.adapters.collection(loras)} if loras else params

    def encode_prompt(self, prompts: str | Sequence[str], max_text_tokens: int = 512) -> TextStates:
        """Text states (B, max_text_tokens, D_text) and their mask. An empty prompt is its end token alone."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        tokens = self.opened.tokenizer.encode(prompts, whole("max_text_tokens", max_text_tokens, 1))
        ids, mask = self.put(tokens.ids), self.put(tokens.mask)
        params = host_memory.on_devices(self.params["text_encoder"])  # if it rests there, the copy ends with this call
        return TextStates(encode_text(self.text_encoder, params, ids, mask), mask)

    def put(self, x: Any, axes: Sequence[str | None] | None = None) -> Array:
        """An array onto the mesh, cut as its logical axes say, or whole on every device."""
        return self.opened.placement.put(x, axes)

    def fetch(self, x: Array) -> np.ndarray:
        """An array from the mesh as every process's own copy."""
        return self.opened.placement.fetch(x)

    def posterior(self, video: Any) -> Posterior:
        """The VAE's posterior, not normalised, of (B, F, H, W, 3) in [-1, 1] with F = 4n + 1."""
        video = _checked_video(video)
        self.coder.config.latent_frames(video.shape[1])  # raises unless 4n + 1
        parts = list(self.coder.encode_stream(self.params["vae"], [video]))
        return jax.tree.map(lambda *p: jnp.concatenate(p, axis=1), *parts)

    def normalized(self, z: Array) -> Array:
        """Raw latents as the DiT sees them."""
        return normalize(self.coder.config, z)

    def encode_video(self, video: Any, posterior: str = "mode", seed: int = 0) -> Array:
        """(B, F, H, W, 3) in [-1, 1] -> normalised latents (B, T, h, w, C) float32; raises unless F is 4n + 1.

        posterior: "mode", or "sample" with the seed.
        """
        one_of("posterior", posterior, ("mode", "sample"))
        key = jax.random.key(whole("seed", seed, 0, SEEDS))
        found = self.posterior(video)
        return self.normalized(found.mode() if posterior == "mode" else found.sample(key))

    def decode_video(self, latents: Any) -> np.ndarray:
        """Normalised latents (B, T, h, w, C) -> video (B, F, H, W, 3) float32 in [-1, 1], F = 4 (T - 1) + 1."""
        return np.concatenate(list(self._fetched(self._decoded(latents))), axis=1)

    def frames(self, latents: Any) -> np.ndarray:
        """Normalised latents -> uint8 (B, F, H, W, 3), decoded as a stream, so that only the bytes add up."""
        rows = (map(_to_uint8, self._decoded(row[None])) for row in jnp.asarray(latents))
        return np.concatenate([np.concatenate(list(self._fetched(row)), axis=1) for row in rows])

    def _fetched(self, arrays: Iterable[Array]) -> Iterator[np.ndarray]:
        """Host copies, each fetched when the next one's work is on its way, so that the device does not wait."""
        before = None
        for array in map(self.opened.placement.gathered, arrays):
            if before is not None:
                yield np.asarray(before)
            before = array
        if before is not None:
            yield np.asarray(before)

    def _decoded(self, latents: Any) -> Iterator[Array]:
        if np.ndim(latents) != 5 or np.shape(latents)[-1] != self.coder.config.z_dim:
            raise InputError(f"latents {np.shape(latents)}: expected (B, T, h, w, {self.coder.config.z_dim})")
        raw = denormalize(self.coder.config, jnp.asarray(latents, jnp.float32))
        return self.coder.decode_stream(self.params["vae"], [raw])

    def network(self, sparse: Attention | str | None = None) -> DiT:
        """The DiT with this self-attention: None is dense, "config" the published block sparse attention, else a
        value such as ops.sparse_attention.BlockSparseAttention."""
        if sparse is None:
            return self.dit
        if isinstance(sparse, str):
            one_of("sparse", sparse, ("config",))
            sparse = _published_blocks(self.dit.config)
        return self.dit.clone(attention=self.opened.placement.attention(sparse))

    def velocity(
        self,
        latents: Any,
        t: Any,
        text: TextStates,
        num_cond: int = 0,
        cache: KVCache | None = None,
        loras: Sequence[str] = (),
        sparse: Attention | str | None = None,
    ) -> Array:
        """The DiT's velocity x0 - noise, float32, shaped like latents (B, T, h, w, C); t: (B, T) in [0, 1].

        With a cache, latents and t hold only the noisy frames, and num_cond may be left out. sparse: see `network`.
        """
        text = jax.tree.map(self.put, text.checked())
        latents, t = (self.put(jnp.asarray(x, jnp.float32)) for x in (latents, t))
        return _velocity(self.network(sparse), self.variables(loras), latents, t, text, cache, num_cond=num_cond)

    def condition_cache(
        self, latents: Any, loras: Sequence[str] = (), sparse: Attention | str | None = None
    ) -> KVCache:
        """Keys and values of clean condition latents (B or 1, n, h, w, C)."""
        latents = self.put(jnp.asarray(latents, jnp.float32))
        return fill_cache(self.network(sparse), self.variables(loras), latents)


def _published_blocks(config: DiTConfig) -> BlockSparseAttention:
    bsa = config.bsa_params
    if bsa is None:
        raise InputError("sparse='config': the DiT's config.json has no bsa_params; give a BlockSparseAttention")
    return BlockSparseAttention(bsa.chunk_3d_shape_q, bsa.chunk_3d_shape_k, bsa.sparsity, bsa.cdf_threshold)


def _checked_video(video: Any) -> Array:
    video = jnp.asarray(video)
    if not jnp.issubdtype(video.dtype, jnp.floating) or video.ndim != 5 or video.shape[-1] != 3:
        raise InputError(f"video {video.dtype} {video.shape}: expected (B, F, H, W, 3), floats in [-1, 1]")
    return video.astype(jnp.float32)


_to_uint8 = jax.jit(images.to_uint8)


@functools.partial(jax.jit, static_argnames="model")
def encode_text(model: UMT5Encoder, params: Mapping[str, Any], ids: Array, mask: Array) -> Array:
    return model.apply({"params": params}, ids, mask)


@functools.partial(jax.jit, static_argnames=("model", "num_cond"))
def _velocity(
    model: DiT,
    variables: Mapping[str, Any],
    latents: Array,
    t: Array,
    text: TextStates,
    cache: KVCache | None,
    *,
    num_cond: int,
) -> Array:
    return model.apply(variables, latents, t, text.states, text.mask, num_cond=num_cond, cache=cache)


@functools.partial(jax.jit, static_argnames="model")
def fill_cache(model: DiT, variables: Mapping[str, Any], latents: Array) -> KVCache:
    return model.apply(variables, latents, method="condition").cache
