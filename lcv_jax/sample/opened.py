"""A checkpoint that is opened but not read: configs, headers, schedule and tokenizer, checked against one another."""

import dataclasses
import functools
import logging
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from lcv_jax.checkpoint import hub, layout, lora
from lcv_jax.checkpoint.default import default_checkpoint
from lcv_jax.checkpoint.load import load_params
from lcv_jax.checkpoint.tensorfile import TensorFile
from lcv_jax.data.text import Tokenizer
from lcv_jax.errors import InputError
from lcv_jax.flow.schedule import ScheduleConfig
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.precision import Precision
from lcv_jax.models.quantised import Quantisation
from lcv_jax.models.umt5 import UMT5Encoder
from lcv_jax.models.vae_coding import Cut, Tiling, VAECoder, uncut
from lcv_jax.ops.attention import dense_attention
from lcv_jax.parallel import footprint, host_memory
from lcv_jax.parallel.mesh import MeshConfig, mesh_of
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.rules import SAMPLING
from lcv_jax.parallel.video_cut import VideoCut
from lcv_jax.sample import memory
from lcv_jax.sample.defaults import PUBLISHED, TOY, Defaults

logger = logging.getLogger(__name__)


def _cut(placement: MeshPlacement, tiling: Tiling | None) -> Cut:
    """How the autoencoder's pictures are cut: over all devices, exactly, unless tiles are asked for."""
    return uncut if placement.mesh.size == 1 or tiling is not None else VideoCut(placement.mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class Opened:
    """Everything about a checkpoint but its weights, so that a run can be planned and refused before they are read.

    files: the three models' folders by name. coder: the autoencoder, in spatial tiles if wanted. placement: the mesh,
    of one device unless a larger one was given. quantisation: of the blocks' kernels, None keeps them in the dtype.
    offload: names of what rests in the host's memory. defaults: of options that are left out.
    """

    folder: pathlib.Path
    files: Mapping[str, layout.Model]
    precision: Precision
    tokenizer: Tokenizer
    schedule: ScheduleConfig
    dit: DiT
    text_encoder: UMT5Encoder
    coder: VAECoder
    placement: MeshPlacement
    quantisation: Quantisation | None = None
    offload: tuple[str, ...] = ()
    defaults: Defaults = PUBLISHED

    @classmethod
    def open(
        cls,
        path_or_repo: str | os.PathLike[str] | None = None,
        dtype: str | None = None,
        mesh: Mesh | MeshConfig | str | None = None,
        *,
        revision: str | None = None,
        vae_tiling: Tiling | None = None,
        weights: str | None = None,
        offload: str | Sequence[str] = (),
    ) -> "Opened":
        """Takes what `Pipeline.from_pretrained` takes; raises InputError on anything wrong but a damaged weight."""
        precision = Precision.named(dtype)
        quantisation, offload = Quantisation.named(weights), host_memory.parts(offload)
        placement = MeshPlacement(mesh_of(mesh) or MeshConfig().make(jax.local_devices()), SAMPLING)
        if offload:
            host_memory.check(placement.mesh)
        cache_memory = jax.memory.Space.Host if "kv_cache" in offload else jax.memory.Space.Device
        dense = placement.attention(dense_attention)
        if path_or_repo is None:
            folder = default_checkpoint()
            logger.info("no checkpoint is named: the default one, the toy world's model in %s", folder)
        else:
            folder = hub.resolve(path_or_repo, revision)
        files = layout.open_models(folder)
        tokenizer = Tokenizer.open(layout.folder(folder, "tokenizer"))
        layout.check_together(files, folder / "tokenizer", tokenizer.token_ids)
        return cls(
            folder=folder,
            files=files,
            precision=precision,
            tokenizer=tokenizer,
            schedule=layout.read_schedule(folder),
            dit=DiT(files["dit"].config, precision, dense, dense, placement, cache_memory=cache_memory),
            text_encoder=UMT5Encoder(files["text_encoder"].config, precision),
            coder=VAECoder(files["vae"].config, precision, vae_tiling, cut=_cut(placement, vae_tiling)),
            placement=placement,
            quantisation=quantisation,
            offload=offload,
            defaults=TOY if path_or_repo is None else PUBLISHED,
        )

    def __post_init__(self):
        heads, devices = self.dit.config.num_heads, self.placement.mesh.shape["tensor"]
        if heads % devices:
            raise InputError(
                f"{self.folder}: the DiT's {heads} heads do not divide by mesh axis tensor={devices}: make it smaller"
            )

    @property
    def pixel_multiple(self) -> int:
        """What height and width in pixels divide by."""
        return self.coder.config.spatial_factor * max(self.dit.config.patch_size[1:])

    def load(self, *, check_finite: bool = False) -> dict[str, Any]:
        """Reads the weights onto their shards, parameters by model. check_finite: refuse NaN and infinity."""
        return {
            name: load_params(
                m.source,
                m.component.table,
                m.abstract,
                dtype=self.precision.param,
                shardings=self.at_rest(name)[1],
                quantisation=self.quantisation,
                check_finite=check_finite,
            )
            for name, m in self.files.items()
        }

    def at_rest(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A model's parameters as they are kept, jax.ShapeDtypeStruct leaves, and their shardings."""
        config = self.files[name].config
        abstract = zoo.abstract_params(config, self.precision)
        if self.quantisation is not None:
            abstract = self.quantisation.abstract(abstract)
        where = self.placement.params(config, abstract)
        if name == "vae" and self.coder.tiling is not None:  # or every tile would gather it
            where = jax.tree.map(lambda leaf: self.placement.replicated, where)
        return abstract, host_memory.resting(where) if name in self.offload else where

    def check_memory(self, adapters: int = 0, run: int = 0) -> None:
        """Raises InputError unless what a device holds of the weights, of `adapters` bytes of LoRAs, and `run` bytes of
        sampling fit together."""
        each = {name: footprint.device_bytes(*self.at_rest(name)) for name in self.files}
        weights = sum(size for name, size in each.items() if name not in self.offload)
        # What is offloaded comes when nothing of the run is there yet, and is gone before it.
        visitors = max((size for name, size in each.items() if name in self.offload), default=0)
        devices = self.placement.mesh.shape
        adapters //= devices["fsdp"] * devices["tensor"]
        memory.check(
            weights + adapters + max(run, visitors),
            f"{self.folder} in {self.precision.param}" + (" with this run" if run else ""),
            "use bfloat16 or int8 weights, offload the text encoder, choose a smaller size or fewer frames, or take "
            "more devices (fsdp) or some with more memory",
            self.placement.mesh,
        )

    @functools.cached_property
    def dit_abstract(self) -> dict[str, Any]:
        """The DiT's parameters as jax.ShapeDtypeStruct, which LoRAs are checked against."""
        return zoo.abstract_params(self.dit.config, self.precision)

    def lora_file(self, name: str) -> pathlib.Path:
        """The file of a LoRA that came with the checkpoint."""
        path = self.folder / "lora" / f"{name}_lora.safetensors"
        if not path.is_file():
            raise InputError(f"LoRA {name!r} is not loaded and {path} does not exist: load_lora(path, {name!r})")
        return path

    def lora_bytes(self, path: os.PathLike[str] | str) -> int:
        """Memory that a LoRA file takes; raises InputError unless its names and shapes are those of this DiT."""
        file = TensorFile.open(path)
        lora.modules(file, self.dit_abstract)
        return sum(math.prod(info.shape) for info in file.tensors.values()) * self.precision.param.itemsize
