"""The whole model as one object: weights in, videos out."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from lcv_jax.models.vae_coding import Tiling
from lcv_jax.ops.attention import Attention
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.sample import long_video, refine, request
from lcv_jax.sample.adapters import Adapters
from lcv_jax.sample.denoise import check_finite, denoise
from lcv_jax.sample.opened import Opened
from lcv_jax.sample.options import Options
from lcv_jax.sample.parts import Parts
from lcv_jax.sample.plan import check_memory, plan
from lcv_jax.sample.prepare import prepare
from lcv_jax.sample.refine import RefineRequest
from lcv_jax.sample.request import Request, filled_up


class Pipeline(Parts):
    """The tasks, over the models' `Parts`. Every task takes the options of `Options` as keywords."""

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        mesh: Mesh | MeshConfig | str | None = None,
        *,
        revision: str | None = None,
        check_finite: bool = False,
        vae_tiling: Tiling | None = None,
        weights: str | None = None,
        offload: str | Sequence[str] = (),
    ) -> "Pipeline":
        """Loads a checkpoint: a directory in the published layout or in ours, or a hub id "org/name"; None is the toy
        world's model that comes with the package, whose tasks have defaults of their own (sample/defaults.py).

        dtype: "bfloat16" or "float32", of weights and computation; None is bfloat16, on a CPU float32. revision: of
        the hub repository. check_finite: refuse weights that hold NaN or infinity. vae_tiling: run the autoencoder
        in tiles, for pictures whose activations do not fit. mesh: devices to share the work, "fsdp=4,context=2", a
        parallel.mesh.MeshConfig, or a mesh that one made; None is one device. Every task takes it: weights are cut over
        fsdp and tensor, a video's tokens over fsdp and context, several prompts over data. weights: "int8" or "fp8"
        keeps the projections of all blocks in eight bits, with a scale for each output channel. offload: what rests in
        the host's memory, "text_encoder" except while prompts are encoded, "kv_cache" except for the layer at work.
        Raises InputError on anything wrong with the files or the mesh, if the backend cannot offload, and if the
        weights do not fit, before they are read.
        """
        kept = {"weights": weights, "offload": offload}
        opened = Opened.open(path_or_repo, dtype, mesh, revision=revision, vae_tiling=vae_tiling, **kept)
        opened.check_memory()
        return cls.load(opened, check_finite=check_finite)

    @classmethod
    def load(cls, opened: Opened, *, check_finite: bool = False) -> "Pipeline":
        """Reads the weights of a checkpoint that is open already."""
        return cls(opened, opened.load(check_finite=check_finite), Adapters(opened))

    def text_to_video(self, prompt: str | Sequence[str], **options: Any) -> np.ndarray:
        """A video, or with num_frames=1 an image, of each prompt."""
        return self.run(request.text_to_video(prompt, self._options(options)))

    def image_to_video(self, image: Any, prompt: str | Sequence[str], **options: Any) -> np.ndarray:
        """A video that starts with the image (PIL, or uint8 (H, W, 3)), for each prompt."""
        return self.run(request.image_to_video(image, prompt, self._options(options)))

    def continue_video(
        self,
        video: Any,
        prompt: str | Sequence[str],
        *,
        num_cond_frames: int | None = None,
        kv_cache: bool = True,
        enhance_hf: bool | None = None,
        **options: Any,
    ) -> np.ndarray:
        """A video whose first num_cond_frames (4n + 1, by default 13) are the input's last, for each prompt.

        video: PIL images or uint8 (F, H, W, 3) at 15 frames a second. kv_cache: compute the condition's keys and
        values once; under guidance the two ways differ, because without it the condition takes part in the guidance
        projection. enhance_hf: the schedule with a uniform tail; None is on unless distilled.
        """
        task = {"num_cond_frames": self._cond(num_cond_frames), "kv_cache": kv_cache, "enhance_hf": enhance_hf}
        return self.run(request.continuation(video, prompt, self._options(options), **task))

    def run(self, request: Request) -> np.ndarray:
        """Any task: what the request's options call `output`. Raises InputError, before any work, if it cannot be."""
        rows = len(request.prompts)
        request = filled_up(request, self.opened.placement.batch_multiple)
        planned = plan(self.opened, request)
        check_memory(self.opened, request, planned)
        conditioning = prepare(self, request, planned)
        variables = self.variables(request.options.active_loras)
        latents = denoise(self.dit, variables, conditioning, request.options.on_step)
        check_finite(latents)
        latents = self.fetch(latents)[:rows]
        return latents if request.options.output == "latents" else self.frames(latents)

    def refine(
        self,
        video: Any,
        prompt: str = "",
        *,
        condition: Any = None,
        num_cond_frames: int = 0,
        spatial_only: bool = False,
        t_thresh: float = 0.5,
        noise: Any = None,
        sparse: Attention | str | None = "config",
        **options: Any,
    ) -> np.ndarray:
        """The video at 720p and, unless spatial_only, at twice its frame rate: block sparse attention, refinement LoRA.

        video: PIL images or uint8 (F, H, W, 3) at 15 frames a second. condition: an image, or a video at the refined
        rate whose last num_cond_frames the result starts with. t_thresh: how much of the input is noise at the start.
        noise: (1, T, h, w, C) of the padded latents, instead of the seed's. sparse: see `Parts.network`. No guidance
        and no negative prompt; steps are those of the whole schedule, of which refinement takes the last ones (5 of
        50). output "latents" is not trimmed. The prompt may be empty.
        """
        task = {"condition": condition, "num_cond_frames": num_cond_frames, "spatial_only": spatial_only}
        chosen = Options(**self.opened.defaults.of_refinement(options))
        asked = refine.request(self.opened, video, chosen, t_thresh=t_thresh, noise=noise, **task)
        latents = self.run_refine(asked, prompt, sparse)
        if asked.options.output == "latents":
            return latents
        return refine.trimmed(self.frames(latents), asked.plan.window)

    def run_refine(self, asked: RefineRequest, prompt: str, sparse: Attention | str | None = "config") -> np.ndarray:
        """The refined latents (1, T, h, w, C), padding included."""
        conditioning = refine.prepare(self, asked, prompt)
        variables = self.variables(tuple(dict.fromkeys(["refinement", *asked.options.loras])))
        latents = denoise(self.network(sparse), variables, conditioning, asked.options.on_step)
        check_finite(latents)
        return self.fetch(latents)

    def long_video(
        self,
        prompts: str | Sequence[str],
        num_segments: int,
        *,
        image: Any = None,
        video: Any = None,
        num_cond_frames: int | None = None,
        kv_cache: bool = True,
        enhance_hf: bool | None = None,
        refine: str = "off",
        refine_size: tuple[int, int] | None = None,
        start: long_video.Tail | None = None,
        **options: Any,
    ) -> Iterator[long_video.Segment]:
        """Yields the segments of a long video as they finish; memory does not grow with their number.

        The first is made of text, or starts with an image, or continues a video (uint8 at 15 frames a second, not
        repeated in the result); each further one continues the last num_cond_frames of the one before, as decoded, and
        holds only what is new: 93 frames, then 80 each. prompts: one for all segments, or one for each. num_frames and
        every other option are those of one segment; negative_prompt, seed and latents (num_segments, T, h, w, C) may
        differ: segment i has seed + i unless each is given its own. kv_cache, enhance_hf: as `continue_video` has them.

        refine: "spatial" (720p) or "spatio-temporal" (720p at twice the rate: 186 frames, then 160 each) refines every
        segment together with the frames before it, under an empty prompt; refine_size: (height, width) instead of 720p
        (of the toy world's model, 128 x 128). start: the tail of a segment, to go on behind it. Raises InputError at
        once, before any work.
        """
        links = long_video.Links(self._cond(num_cond_frames), kv_cache, enhance_hf)
        kept = {"image": image, "video": video, "refine": refine, "refine_size": refine_size, "start": start}
        asked = long_video.request(self.opened, prompts, num_segments, self._options(options), links, **kept)
        long_video.check_memory(self.opened, asked)
        return long_video.segments(self, asked)

    def _options(self, given: Mapping[str, Any]) -> Options:
        return Options(**self.opened.defaults.filled_in(given))

    def _cond(self, given: int | None) -> int:
        return self.opened.defaults.num_cond_frames if given is None else given
