"""Compiles what runs will compute before there are weights, so that a run finds its programs in JAX's cache on disk.

Each program of a run that takes long to compile (loading, text encoder, condition pass, sampling step, the
autoencoder's stream) is lowered from shapes, dtypes and shardings. They have to be exactly those of the run, or the
cache would not find the program: where a program takes what another one gives, its shardings are those that the
compiler chose for that. What is left are the small programs between those.

An entry of the cache is of one kind and number of devices, one mesh, one number of processes, one version of JAX, and
one path of the cache's folder, which JAX makes a part of the key.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from lcv_jax.checkpoint import load
from lcv_jax.models.dit import KVCache
from lcv_jax.models.umt5 import TextStates
from lcv_jax.models.vae_coding import uncut
from lcv_jax.parallel import host_memory
from lcv_jax.sample import parts as programs
from lcv_jax.sample.adapters import Adapters
from lcv_jax.sample.denoise import LATENTS, sample_step
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options
from lcv_jax.sample.parts import Parts
from lcv_jax.sample.plan import plan
from lcv_jax.sample.refine import RefinePlan
from lcv_jax.sample.request import Request, filled_up

Told = Callable[[str], None]
"""Called with the name of each program when it is compiled."""


def weightless(opened: Opened) -> Parts:
    """The models with jax.ShapeDtypeStruct for parameters, each with its sharding. LoRAs are read when asked for."""
    params = {name: _placed(*opened.at_rest(name)) for name in opened.files}
    return Parts(opened, params, Adapters(opened))


@dataclasses.dataclass(frozen=True)
class Ahead:
    """Compiles all programs of runs, each once. parts: see `weightless`. made: what each gives, by what it takes."""

    parts: Parts
    told: Told
    made: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    def loading(self) -> None:
        """What `Opened.load` will need."""
        opened = self.parts.opened
        how = {"dtype": opened.precision.param, "quantisation": opened.quantisation}
        for name, model in opened.files.items():
            load.programs(model.source, model.leaves, opened.at_rest(name)[1], self.program, **how)

    def sampling(self, request: Request) -> None:
        """What `Pipeline.run` of the request, and `Pipeline.frames` of its result, will need."""
        opened, options = self.parts.opened, request.options
        request = filled_up(request, opened.placement.batch_multiple)
        planned = plan(opened, request)
        B, T, h, w, C = planned.shape
        self._text(B, options.max_text_tokens)
        cache = None
        if request.condition is not None:
            condition = request.condition
            self._autoencoder("encode", (len(condition.frames), condition.length, *planned.size, 3))
            if condition.cached:
                rows = condition.rows(B, options.posterior)
                cache = self._condition((rows, planned.num_cond, h, w, C), options.active_loras)
        noisy = T if cache is None else T - planned.num_cond
        self._step(
            (B, noisy, h, w, C),
            options,
            options.active_loras,
            cache=cache,
            guidance=None if planned.negatives is None else np.float32(options.run_guidance),
            num_cond=planned.num_cond if cache is None else 0,
        )
        self._autoencoder("decode", (1, T, h, w, C))

    def refinement(self, planned: RefinePlan, options: Options) -> None:
        """What `Pipeline.refine` with this plan will need."""
        window, loras = planned.window, tuple(dict.fromkeys(["refinement", *options.loras]))
        self._autoencoder("encode", (1, len(window.places), *planned.size, 3))
        if window.cond_latents:
            frames = 4 * window.cond_latents - 3
            self._autoencoder("encode", (1, frames, *planned.size, 3))
        self._text(1, options.max_text_tokens)
        self._step(planned.shape, options, loras, sparse="config", num_cond=window.cond_latents)
        self._autoencoder("decode", planned.shape)

    def _text(self, B: int, tokens: int) -> None:
        model = self.parts.text_encoder
        params = jax.tree.map(_on_devices, self.parts.params["text_encoder"])
        ids, mask = (self._put((B, tokens), dtype) for dtype in (np.int32, np.bool_))
        self.program(programs.encode_text, model, params, ids, mask)

    def _condition(self, shape: tuple[int, ...], loras: Sequence[str]) -> KVCache:
        latents = self._put(shape, np.float32)
        return self.program(programs.fill_cache, self.parts.network(), self.parts.variables(loras), latents)

    def _step(
        self,
        shape: tuple[int, ...],
        options: Options,
        loras: Sequence[str],
        *,
        sparse: str | None = None,
        cache: KVCache | None = None,
        guidance: np.float32 | None = None,
        num_cond: int = 0,
    ) -> None:
        """The sampling step for latents (B, T', h, w, C) that run through the network."""
        rows, L = shape[0] * (1 if guidance is None else 2), options.max_text_tokens
        states = (rows, L, self.parts.text_encoder.config.d_model)
        text = TextStates(
            self._put(states, self.parts.opened.precision.output, ("batch", None, None)),
            self._put((rows, L), np.bool_, ("batch", None)),
        )
        latents, t = self._put(shape, np.float32, LATENTS), np.float32(1)
        variables = self.parts.variables(loras)
        model = self.parts.network(sparse)
        self.program(sample_step, model, variables, latents, t, t, text, cache, guidance, num_cond=num_cond)

    def _autoencoder(self, method: str, shape: tuple[int, ...]) -> None:
        """A stream over a whole video or its latents of this shape."""
        coder, params = self.parts.coder, self.parts.params["vae"]
        if coder.cut != uncut:
            params = _placed(params, jax.tree.map(lambda _: self.parts.opened.placement.replicated, params))
        coder.programs(method, params, shape, self.program)

    def _put(self, shape: tuple[int, ...], dtype: Any, axes: Sequence[str | None] | None = None) -> Any:
        """What `Parts.put` would give."""
        placement = self.parts.opened.placement
        where = placement.replicated if axes is None else placement.sharding(axes, shape)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    def program(self, function: Any, *arguments: Any, **static: Any) -> Any:
        """Compiles a jitted function; what it would return as jax.ShapeDtypeStruct with the compiler's shardings."""
        leaves, tree = jax.tree.flatten((arguments, static))
        key = function, tree, tuple(map(_kind, leaves))
        if key not in self.made:
            lowered = function.lower(*arguments, **static)
            self.made[key] = _placed(lowered.out_info, lowered.compile().output_shardings)
            self.told(function.__name__)
        return self.made[key]


def _kind(x: Any) -> Any:
    """What a compiler sees of an argument: an array's values do not matter."""
    return (x.shape, x.dtype, getattr(x, "sharding", None)) if hasattr(x, "shape") else x


def _placed(abstract: Any, shardings: Any) -> Any:
    def placed(x: Any, where: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

    return jax.tree.map(placed, abstract, shardings)


def _on_devices(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """What `host_memory.on_devices` would give."""
    resting = x.sharding.memory_kind == host_memory.HOST
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding.with_memory_kind(None)) if resting else x
