"""What train.py does, from a config to the end of a run."""

import contextlib
import logging
import math
import pathlib
import shutil
from collections.abc import Callable

import jax

from lcv_jax.objectives.objective import Trees
from lcv_jax.parallel import processes
from lcv_jax.parallel.plan_devices import DEVICES
from lcv_jax.train import samples
from lcv_jax.train.build import DiTTraining
from lcv_jax.train.checkpoint import Checkpoints
from lcv_jax.train.config import RunConfig, TextTrainConfig, TrainConfig, VAETrainConfig, keep
from lcv_jax.train.encoders import TextTraining, VAETraining
from lcv_jax.train.grpo import GRPOTraining
from lcv_jax.train.grpo_config import GRPOConfig
from lcv_jax.train.loop import End, Schedule, resume, run
from lcv_jax.train.programs import Kind, Programs, Work
from lcv_jax.train.report import Report, check_wandb
from lcv_jax.train.rounds import Rounds
from lcv_jax.train.state import TrainState
from lcv_jax.train.training import Training

logger = logging.getLogger(__name__)

PROFILE = "profile"
_PROFILED = range(3, 6)  # steps of this process that are traced, when the first ones have warmed up


def train(config: RunConfig, out: str, *, profile: bool = False, wandb: str | None = None) -> tuple[int, End]:
    """Trains until config.steps, or until SIGTERM; continues what is in `out`. Returns the last step and why it ended.

    out: local folder; gets checkpoints/STEP, metrics.jsonl, config.json, tensorboard/, samples/, profile/.
    """
    folder = pathlib.Path(out)
    if wandb is not None:
        check_wandb()
    training = training_of(config)
    logger.info("%s", plan(training))
    with Checkpoints(folder, keep=config.keep) as checkpoints:
        newest = checkpoints.newest
        if processes.is_main():
            keep(folder, config, resumed=newest is not None)
        given = training.given()
        state = resume(checkpoints, training.abstract, training.feed)
        state = training.start() if state is None else state
        begun = int(state.step)
        if newest is not None:
            logger.info("continues behind step %d", begun)
        if begun >= config.steps:
            return begun, End.FINISHED
        if isinstance(training, GRPOTraining):
            programs: Programs | Rounds = Rounds(training, given, folder, _compiled)
        else:
            programs = Programs(training.step, training.abstract, given, training.kinds, _compiled)
        report = None
        if processes.is_main():
            speed = peak(jax.devices()[0].device_kind)
            report = Report(folder, begun, programs.done, training.feed.damaged, speed, wandb)
        schedule = Schedule(config.steps, config.save_every, config.log_every)
        hooks = _hooks(folder, training, given, profile, begun)
        with contextlib.closing(report) if report is not None else contextlib.nullcontext():
            state, end = run(programs, state, given, training.feed, checkpoints, report, schedule, hooks)
    return int(state.step), end


def plan(training: Training) -> str:
    """A few lines about a run before it begins."""
    config = training.config
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(training.abstract.trained))
    what = "parameters"
    if isinstance(config, TrainConfig | GRPOConfig) and config.lora is not None:
        what = f"parameters of a LoRA of rank {config.lora.rank}"
    mesh = ", ".join(f"{axis}={size}" for axis, size in training.placement.mesh.shape.items())
    lines = [f"{trained:,} {what} trained; mesh {mesh}; {config.steps:,} steps; batches:"]
    shares = {stream.name: stream.share for stream in training.streams}
    lines += [f"  {kind.name}: {kind.tokens:,} tokens" for kind in training.kinds]
    if shares:
        forms = ", ".join(f"{name} {share:.3f}" for name, share in shares.items())
        lines.append(f"  shares of the batches by dataset and form: {forms}")
    return "\n".join(lines)


def training_of(config: RunConfig) -> Training:
    """The run of a config, opened and checked. Raises InputError."""
    kinds = {
        TrainConfig: DiTTraining,
        GRPOConfig: GRPOTraining,
        VAETrainConfig: VAETraining,
        TextTrainConfig: TextTraining,
    }
    return kinds[type(config)].of(config)


def _hooks(
    folder: pathlib.Path, training: Training, given: Trees, profile: bool, begun: int
) -> Callable[[int, TrainState], None]:
    def after(at: int, state: TrainState) -> None:
        if profile and at - begun == _PROFILED.start - 1:
            shutil.rmtree(folder / PROFILE, ignore_errors=True)
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(folder / PROFILE))
        if profile and at - begun == _PROFILED.stop - 1:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            logger.info("profile of steps %d to %d in %s", at - len(_PROFILED) + 1, at, folder / PROFILE)
        if isinstance(training, DiTTraining) and samples.due(training.config, at):
            samples.write(folder, at, training, training.trees(state, given))

    return after


def _compiled(kind: Kind, work: Work, seconds: float) -> None:
    flops = f"{work.flops / 1e12:,.3g} TFLOP a device and step"
    logger.info("compiled %s in %.1f s: %s", kind.name, seconds, flops)


def peak(kind: str) -> float | None:
    """FLOP/s in bfloat16 of a device by JAX's name of its kind, such as "NVIDIA H200"; None where it is not known."""
    kind = kind.lower().replace(" ", "").replace("lite", "e")
    kind = {"tpuv5": "tpuv5p"}.get(kind, kind)
    for name, device in DEVICES.items():
        if name.split("-")[0 if device.tpu is None else 1] in kind:
            return device.flops
    return None
