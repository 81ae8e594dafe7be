"""What can be planned, by name: one sampling step and decoding, or one step of training, of a published size."""

import dataclasses
import enum
import math

from lcv_jax.errors import InputError
from lcv_jax.models.zoo import Architecture

TEXT_TOKENS = 512


class Kind(enum.StrEnum):
    """Sampling holds the text encoder, the autoencoder and the DiT's weights and runs forward; training holds float32
    masters, gradients and AdamW's moments and runs both ways, on latents and text states that are cached."""

    SAMPLE = "sample"
    TRAIN = "train"


class Attention(enum.StrEnum):
    """Among the video's tokens: dense, or the published block sparse one."""

    DENSE = "dense"
    SPARSE = "block sparse"


@dataclasses.dataclass(frozen=True)
class Task:
    """size: (height, width) in pixels. frames: pixel frames that go through the network. passes: rows of the network
    for one sample, 2 with guidance. lora: parameters of the published LoRA that is active, 0 for none."""

    name: str
    kind: Kind
    size: tuple[int, int]
    frames: int
    passes: int = 1
    attention: Attention = Attention.DENSE
    lora: int = 0

    def latents(self, model: Architecture) -> tuple[int, int, int]:
        """(T, h, w). Raises InputError for frames that the autoencoder does not encode whole."""
        factor = model.vae.spatial_factor
        return model.vae.latent_frames(self.frames), self.size[0] // factor, self.size[1] // factor

    def grid(self, model: Architecture) -> tuple[int, int, int]:
        """Tokens (T, H, W)."""
        T, h, w = self.latents(model)
        _, p, q = model.dit.patch_size
        return T, h // p, w // q

    def kept(self, model: Architecture) -> float:
        """Share of the key blocks that a query attends to. Raises InputError for a model without sparse attention."""
        if self.attention is Attention.DENSE:
            return 1.0
        bsa = model.dit.bsa_params
        if bsa is None or bsa.sparsity is None:
            raise InputError(f"--task {self.name}: the model's config tells no sparsity of its attention")
        blocks = math.prod(self.grid(model)) // math.prod(bsa.chunk_3d_shape_k)
        return int((1 - bsa.sparsity) * blocks) / blocks


TASKS = {
    task.name: task
    for task in (
        Task("t2v-480p", Kind.SAMPLE, (480, 832), 93, passes=2),
        # 93 frames doubled to 186, which are encoded as 189; the refinement LoRA's parameters.
        Task("refine-720p", Kind.SAMPLE, (704, 1280), 189, attention=Attention.SPARSE, lora=802_299_904),
        Task("train-256p", Kind.TRAIN, (256, 256), 93),
        Task("train-480p", Kind.TRAIN, (480, 832), 93),
        Task("train-720p", Kind.TRAIN, (704, 1280), 93),
    )
}


def named(name: str) -> Task:
    """Raises InputError for a name that is not in the table."""
    if name not in TASKS:
        raise InputError(f"--task {name!r} is not known: expected one of {', '.join(TASKS)}")
    return TASKS[name]
