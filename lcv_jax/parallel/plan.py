"""What a step of sampling or training needs on each device of a mesh, before anything runs.

The figures here come from arithmetic: parameters from their shapes and shardings, activations from `footprint` and
`plan_residuals`, traffic from `plan_traffic`. `plan_compile` compiles the same step and compares.
"""

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.dit_geometry import Geometry
from lcv_jax.models.flops import forward_flops
from lcv_jax.models.precision import BFLOAT16, Precision
from lcv_jax.models.remat import Remat
from lcv_jax.models.vae_coding import VAECoder
from lcv_jax.parallel import footprint, plan_traffic
from lcv_jax.parallel.footprint import Backend, Cut, Moment, StepLoad
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.plan_devices import Device
from lcv_jax.parallel.plan_residuals import TracedAttention, residuals
from lcv_jax.parallel.plan_tasks import TEXT_TOKENS, Attention, Kind, Task
from lcv_jax.parallel.rules import SAMPLING, TRAINING, Rules

MIXED = Precision(param=jnp.dtype("float32"), compute=jnp.dtype("bfloat16"), output=jnp.dtype("float32"))
"""Training: float32 masters, bfloat16 products."""

_MASTER = 4  # bytes of a float32


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is planned. mesh: filled. batch: samples at once, over the whole mesh. remat: what training keeps for the
    backward pass. ema: copies of the masters kept as a running mean, 0 or 1."""

    model: str
    task: Task
    mesh: MeshConfig
    device: Device
    batch: int
    remat: Remat
    ema: int = 0

    @property
    def architecture(self) -> zoo.Architecture:
        return zoo.ARCHITECTURES[self.model]

    @property
    def rules(self) -> Rules:
        return SAMPLING if self.task.kind is Kind.SAMPLE else TRAINING

    @property
    def cut(self) -> Cut:
        return Cut.of(self.rules, self.mesh.sizes)

    @property
    def precision(self) -> Precision:
        return BFLOAT16 if self.task.kind is Kind.SAMPLE else MIXED

    @property
    def rows(self) -> int:
        """Of the network on one device."""
        return -(-self.batch * self.task.passes // self.cut.batch)

    @property
    def geometry(self) -> Geometry:
        sparse = self.architecture.dit.bsa_params
        block = sparse.chunk_3d_shape_q if self.task.attention is Attention.SPARSE else None
        return Geometry(self.task.grid(self.architecture), block=block, parts=self.cut.tokens)

    @property
    def tokens(self) -> int:
        """Video tokens of one device, of all its rows, padding included."""
        g = self.geometry
        return self.rows * g.padded_tokens // self.cut.tokens * g.grid[0] // g.slab_frames

    def checked(self) -> "Asked":
        """Raises InputError for a mesh that does not suit the model or the batch."""
        heads, batch = self.architecture.dit.num_heads, self.cut.batch
        if heads % self.mesh.tensor:
            raise InputError(f"--mesh {self.mesh}: tensor={self.mesh.tensor} does not divide the {heads} heads")
        if self.batch % batch:
            over = "data and fsdp" if self.task.kind is Kind.TRAIN else "data"
            raise InputError(
                f"--batch {self.batch}: the mesh cuts the batch over {over}, expected a multiple of {batch}"
            )
        return self


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device, by what they hold. activations: None where they are counted among the temporaries."""

    params: int
    gradients: int
    optimizer: int
    ema: int
    activations: int | None
    temporaries: int

    @property
    def total(self) -> int:
        return sum(value or 0 for value in dataclasses.astuple(self))


@dataclasses.dataclass(frozen=True)
class Estimate:
    """memory: of one device. flops: that it executes in a step, matrix products only. traffic: what it sends."""

    memory: Memory
    flops: float
    traffic: tuple[plan_traffic.Traffic, ...]

    def compute_seconds(self, device: Device) -> float:
        """Of a step at the peak of the device."""
        return self.flops / device.flops

    def traffic_seconds(self, mesh: MeshConfig, device: Device) -> float:
        """Of a step at the full rate of the links, one collective after the other."""
        return sum(one.seconds(mesh, device) for one in self.traffic)


def estimate(asked: Asked) -> Estimate:
    """By arithmetic, with fused attention."""
    memory = _sampling_memory(asked) if asked.task.kind is Kind.SAMPLE else _training_memory(asked)
    return Estimate(memory, step_flops(asked), _traffic(asked))


def step_flops(asked: Asked) -> float:
    """FLOPs that a device executes in one step; padding, repeated and recomputed work included."""
    model, task, cut, g = asked.architecture, asked.task, asked.cut, asked.geometry
    c, N = model.dit, math.prod(asked.task.grid(asked.architecture))
    attention = 4 * c.hidden_size * N * N * c.depth
    # Keys and values of the text are made by all devices that share a video; the rest is shared among them.
    text = 4 * TEXT_TOKENS * c.hidden_size**2 * c.depth
    linear = forward_flops(c, Geometry(g.grid), TEXT_TOKENS) - attention - text
    share = g.padded_tokens / g.slab_tokens / (cut.tokens * cut.heads)
    linear, attention, text = linear * share, attention * task.kept(model) * share, text / (cut.weights * cut.heads)
    if task.kind is Kind.SAMPLE:
        return asked.rows * (linear + attention + text)
    again = plan_traffic.Repeated.under(asked.remat)
    # Backward a product becomes two; fused attention forms its scores again and has five for two.
    return asked.rows * ((3 + again.products) * (linear + text) + (3.5 + again.attention) * attention)


def placement(asked: Asked) -> MeshPlacement:
    """Of a mesh without devices."""
    sizes = asked.mesh.sizes
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))
    return MeshPlacement(mesh, asked.rules)


def step_moment(asked: Asked, precision: Precision, backend: Backend) -> Moment:
    """The DiT's part of a step beside parameters, gradients and optimizer."""
    return (_sampling_moment if asked.task.kind is Kind.SAMPLE else _training_moment)(asked, precision, backend)


def _sampling_moment(asked: Asked, precision: Precision, backend: Backend) -> Moment:
    model, task = asked.architecture, asked.task
    latents = (asked.batch, *task.latents(model), model.dit.in_channels)
    load = StepLoad(latents, task.passes, cached=0, cache_rows=0, text_tokens=TEXT_TOKENS)
    return footprint.step_moment(model.dit, precision, load, asked.cut, backend)


@functools.cache
def _abstract(config: zoo.ModelConfig, precision: Precision) -> Any:
    return zoo.abstract_params(config, precision)


def _sampling_memory(asked: Asked) -> Memory:
    """The three models rest on the mesh; the widest of a step, decoding and encoding passes over them."""
    model, precision = asked.architecture, asked.precision
    on = placement(asked)
    params = 0
    for config in (model.dit, model.text_encoder, model.vae):
        abstract = _abstract(config, precision)
        params += footprint.device_bytes(abstract, on.params(config, abstract))
    params += asked.task.lora * precision.param.itemsize // (asked.mesh.fsdp * asked.mesh.tensor)
    step = _sampling_moment(asked, precision, footprint.ACCELERATOR)
    _, h, w = asked.task.latents(model)
    coder = VAECoder(model.vae, precision)
    vae = max(footprint.vae_bytes(coder, h, w, method, asked.mesh.devices) for method in ("encode", "decode"))
    return Memory(params, 0, 0, 0, step.activations, max(step.temporaries, vae - step.activations))


def _training_memory(asked: Asked) -> Memory:
    """float32 masters, gradients, two moments and, if any, the mean, all cut alike. Too much where `data` makes copies:
    those share the moments (train/state.py)."""
    masters = _masters(asked)
    moment = _training_moment(asked, asked.precision, footprint.ACCELERATOR)
    return Memory(masters, masters, 2 * masters, asked.ema * masters, moment.activations, moment.temporaries)


def _masters(asked: Asked) -> int:
    abstract = _abstract(asked.architecture.dit, MIXED)
    return footprint.device_bytes(abstract, placement(asked).params(asked.architecture.dit, abstract))


def _training_moment(asked: Asked, precision: Precision, backend: Backend) -> Moment:
    """Activations: what all blocks keep for the backward pass. Temporaries: what the block at work computes again, the
    widest gradients in it, its weights and their gradient; and where gradients are summed over more devices than cut
    them, the sums beside them."""
    c, cut, item = asked.architecture.dit, asked.cut, precision.compute.itemsize
    tokens, text, heads = asked.tokens, asked.rows * TEXT_TOKENS, cut.heads
    model = DiT(c, precision, attention=TracedAttention(), cross_attention=TracedAttention("text"))
    kept, outside = residuals(model.clone(remat=asked.remat))
    again, _ = residuals(model)
    activations = c.depth * kept.bytes(tokens, text, heads) + outside.bytes(tokens, text, heads)
    gradients = tokens * (3 * c.ffn_size * item // heads + 2 * c.hidden_size * item + _MASTER * c.hidden_size)
    g = asked.geometry
    shape = (asked.rows, tokens // asked.rows, c.num_heads // heads, c.head_dim)
    held = backend.logits(shape, g.grid[0] * g.frame_tokens, precision.compute)
    # A block's weights, and the gradient of one before it is scattered.
    weights = backend.weights(c, precision, cut) + backend.weights(c, precision, Cut(heads=heads))
    inside = (again - kept).bytes(tokens, text, heads)
    sums = _masters(asked) if plan_traffic.summed(asked.mesh, asked.rules) else 0
    return Moment(activations, max(inside, 0) + gradients + weights + 2 * held + sums)


def _traffic(asked: Asked) -> tuple[plan_traffic.Traffic, ...]:
    c, cut, item = asked.architecture.dit, asked.cut, asked.precision.compute.itemsize
    stream = asked.tokens * c.hidden_size * item
    block = plan_traffic.Block(
        weights=footprint.block_bytes(c, asked.precision) / cut.heads,
        stream=stream,
        inner=stream / cut.heads,
        heads=c.num_heads // cut.heads,
        depth=c.depth,
    )
    if asked.task.kind is Kind.SAMPLE:
        return plan_traffic.sampling(block, asked.mesh, asked.rules)
    return plan_traffic.training(block, asked.mesh, asked.rules, plan_traffic.Repeated.under(asked.remat))
