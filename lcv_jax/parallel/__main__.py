"""What a step of sampling or training needs on a mesh, compiled ahead of time: nothing is allocated.

python -m lcv_jax.parallel plan --model longcat-13b --task t2v-480p --mesh fsdp=8 --device h100-80gb
python -m lcv_jax.parallel plan --task train-720p --devices 64 --device h100-80gb     # chooses the mesh
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro

from lcv_jax.command_line import one_line, status
from lcv_jax.data.files import check_writable, replacing
from lcv_jax.errors import InputError
from lcv_jax.models import zoo
from lcv_jax.models.dit import DiT
from lcv_jax.models.remat import Remat
from lcv_jax.models.umt5 import TextStates
from lcv_jax.objectives.objective import Trees
from lcv_jax.objectives.pretrain import Batch, Pretrain
from lcv_jax.objectives.prompts import EMPTY
from lcv_jax.ops.attention import dense_attention
from lcv_jax.ops.sparse_attention import BlockSparseAttention
from lcv_jax.parallel import plan_devices, plan_tasks
from lcv_jax.parallel.mesh import MeshConfig
from lcv_jax.parallel.placement import MeshPlacement
from lcv_jax.parallel.plan import Asked, estimate
from lcv_jax.parallel.plan_compile import Target, measure, target
from lcv_jax.parallel.plan_report import Report, lines, record
from lcv_jax.parallel.plan_search import choose
from lcv_jax.sample.denoise import sample_step
from lcv_jax.train.optimizer import AdamW
from lcv_jax.train.state import abstract_state, create, state_shardings
from lcv_jax.train.step import jitted, make_step

MOST_DEVICES = 65536  # of a plan; more would take hours to list


@dataclasses.dataclass(frozen=True)
class Plan:
    """Print what a step needs on each device of a mesh, and whether it fits."""

    task: str
    """t2v-480p, refine-720p, train-256p, train-480p or train-720p."""
    device: str
    """A kind of device such as h100-80gb, h200-141gb, h800-80gb or tpu-v5p."""
    mesh: str | None = None
    """Such as fsdp=8,context=8."""
    devices: int | None = None
    """Instead of a mesh: how many, and the mesh is chosen."""
    model: str = "longcat-13b"
    """A named architecture."""
    batch: int | None = None
    """Samples at once over the whole mesh; by default one for each place that the mesh cuts the batch over."""
    remat: str = "full"
    """What training keeps for the backward pass: none (everything), dots, attention or full (nothing)."""
    ema: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Keep a running mean of what is trained."""
    compile: bool = True
    """Compile the step and compare it with the estimate; on a TPU the compiler's figures are the ones that count."""
    out: pathlib.Path | None = None
    """A JSON file for the figures."""

    def run(self) -> int:
        if self.out is not None:
            check_writable(self.out, ".json")
        asked = self.asked()
        found = estimate(asked)
        compiled = None
        if self.compile:
            for_ = target(asked)
            compiled = measure(lower(asked, for_), for_.source)
        report = Report(asked, found, compiled)
        print("\n".join(lines(report)))
        if self.out is not None:
            with replacing(self.out) as aside:
                aside.write_text(json.dumps(record(report), indent=1) + "\n")
        return 0

    def asked(self) -> Asked:
        """Raises InputError for names that are not known and for a mesh that does not suit."""
        if self.model not in zoo.ARCHITECTURES:
            raise InputError(f"--model {self.model!r} is not known: expected one of {', '.join(zoo.ARCHITECTURES)}")
        task, device = plan_tasks.named(self.task), plan_devices.named(self.device)
        if (self.mesh is None) == (self.devices is None):
            raise InputError("give either --mesh, such as fsdp=8,context=8, or --devices for a mesh to be chosen")
        for name, value in (("batch", self.batch), ("devices", self.devices)):
            if value is not None and value < 1:
                raise InputError(f"--{name} {value}: expected at least 1")
        mesh = MeshConfig.parse(self.mesh) if self.mesh is not None else MeshConfig()
        if -1 in mesh.sizes.values():
            raise InputError(f"--mesh {self.mesh}: expected the size of every axis, -1 is for devices that are there")
        if max(mesh.devices, self.devices or 0) > MOST_DEVICES:
            raise InputError(f"--mesh {mesh}, --devices {self.devices}: expected at most {MOST_DEVICES} devices")
        asked = Asked(self.model, task, mesh, device, self.batch or 0, Remat.named(self.remat), int(self.ema))
        _start_backend(device, self.devices or mesh.devices)
        if self.devices is not None:
            asked = choose(asked, self.devices)
        return dataclasses.replace(asked, batch=self.batch or asked.cut.batch).checked()


def lower(asked: Asked, on: Target) -> jax.stages.Lowered:
    """The step of a task for a target, traced with abstract arrays that know their shardings."""
    place = MeshPlacement(asked.mesh.make(on.devices), asked.rules)
    inner = dense_attention
    if asked.task.attention is plan_tasks.Attention.SPARSE:
        bsa = asked.architecture.dit.bsa_params
        blocks = (bsa.chunk_3d_shape_q, bsa.chunk_3d_shape_k)
        inner = BlockSparseAttention(*blocks, bsa.sparsity, bsa.cdf_threshold, implementation="xla")
    model = DiT(
        asked.architecture.dit,
        on.precision,
        attention=place.attention(inner),
        cross_attention=place.attention(dense_attention),
        placement=place,
        remat=asked.remat,
    )
    of = _lower_sampling if asked.task.kind is plan_tasks.Kind.SAMPLE else _lower_training
    return of(asked, model, place)


def _lower_sampling(asked: Asked, model: DiT, place: MeshPlacement) -> jax.stages.Lowered:
    """One step of the sampling loop; a LoRA is left out, its products are a fiftieth of the step's."""
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=place.replicated)
    latents, text = _inputs(asked, place, asked.batch * asked.task.passes)
    guidance = scalar if asked.task.passes == 2 else None
    variables = {"params": _params(model, place)}
    return sample_step.lower(model, variables, latents, scalar, scalar, text, None, guidance)


def _lower_training(asked: Asked, model: DiT, place: MeshPlacement) -> jax.stages.Lowered:
    """One step of pretraining: gradients, AdamW, the running mean."""
    params, optimizer = _params(model, place), AdamW(rate=1e-4).make()
    shardings = jax.tree.map(lambda leaf: leaf.sharding, params)
    state = jax.eval_shape(lambda p, k: create(p, optimizer, k, ema=bool(asked.ema)), params, jax.random.key(0))
    where = state_shardings(state, shardings, optimizer)
    latents, text = _inputs(asked, place, asked.batch)
    empty = _text(place, (1, plan_tasks.TEXT_TOKENS, asked.architecture.dit.caption_channels), (None, None, None))
    step = jitted(make_step(Pretrain(model), optimizer, shardings=shardings), where)
    return step.lower(abstract_state(state, where), Batch(latents, text), Trees(prompts={EMPTY: empty}))


def _params(model: DiT, place: MeshPlacement) -> Any:
    abstract = zoo.abstract_params(model.config, model.precision)
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        abstract,
        place.params(model.config, abstract),
    )


def _inputs(asked: Asked, place: MeshPlacement, rows: int) -> tuple[jax.ShapeDtypeStruct, TextStates]:
    """Latents of the batch, text of `rows` rows of the network."""
    dit = asked.architecture.dit
    shape = (asked.batch, *asked.task.latents(asked.architecture), dit.in_channels)
    where = place.sharding(("batch", None, None, None, None), shape)
    latents = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)
    return latents, _text(place, (rows, plan_tasks.TEXT_TOKENS, dit.caption_channels), ("batch", None, None))


def _text(place: MeshPlacement, shape: tuple[int, int, int], axes: tuple[str | None, ...]) -> TextStates:
    where, mask = place.sharding(axes, shape), place.sharding(axes[:2], shape[:2])
    return TextStates(
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where),
        jax.ShapeDtypeStruct(shape[:2], jnp.bool_, sharding=mask),
    )


def _start_backend(device: plan_devices.Device, count: int) -> None:
    """The CPU, before anything else touches JAX, with as many virtual devices as the plan compiles for; a TPU's
    compiler brings its own."""
    jax.config.update("jax_platforms", "cpu")
    if device.tpu is None:
        jax.config.update("jax_num_cpu_devices", count)


def _tell_libtpu() -> None:
    """What libtpu would else ask the cloud for, and complain about at length: it only compiles here."""
    told = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v5p-8"}
    for name, value in told.items():
        os.environ.setdefault(name, value)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. Returns 0, whether the plan fits or not; 2 after one line about bad input."""
    _tell_libtpu()

    def run() -> int:
        with one_line():
            command = tyro.extras.subcommand_cli_from_dict({"plan": Plan}, args=argv, prog="python -m lcv_jax.parallel")
        return command.run()

    return status(run, "nothing was written: start it again")


if __name__ == "__main__":
    sys.exit(main())
